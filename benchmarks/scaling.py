"""How the cost of exploration grows with the number of tasks and with the depth: `python -m benchmarks.scaling`.

Grows trees with the SFT policy of the last `make run`, each line in a process of its own, and prints the tables of
docs/scaling.md. CPU seconds count from the loaded models on; memory is the peak of the whole process.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import subprocess
import sys
import tempfile
from itertools import islice
from pathlib import Path

from benchmarks.rows import cpu_seconds
from tasks.playing.rollouts import EnvSpec, Models
from tasks.project import paths, settings
from tasks.stages import explore

ENV = "alfworld"
POLICY = paths.policy(ENV, settings.SFT)
TASKS = (5, 10, 20)
DEPTHS = (2, 4, 6, 8, 10)
UNCAPPED = 1_000_000
HEADER = (
    "tasks",
    "D",
    "cap",
    "nodes",
    "nodes a tree",
    "tokens a node",
    "CPU s",
    "CPU ms a node",
    "KB a tree",
    "peak MB",
)


def measure(tasks: int, depth: int, cap: int) -> list[float]:
    """Explore the first training tasks in this process; return the values of one line."""
    import torch

    from qlass.jsonl import write_records
    from qlass.records import ExplorationTree

    torch.set_num_threads(1)
    given = settings.load_all().on(ENV)
    budget = settings.Explore(**given.explore.model_dump() | {"depth": depth, "max_nodes": cap})
    models = Models.of(given, ENV, settings.SFT, POLICY, None)
    work = explore.start(explore.ExploreSetup(EnvSpec.of(ENV, given.envs[ENV]), models, budget, given.base.seed))
    panel = explore.tasks_of(ENV, None)
    work(list(islice(panel, tasks, tasks + 1)))  # loads libraries and the model once, on a task that does not count
    trees: list[ExplorationTree] = []
    seconds = cpu_seconds(lambda: trees.extend(one.tree for one in work(panel[:tasks])))
    nodes = sum(len(tree.nodes) for tree in trees)
    with tempfile.TemporaryDirectory() as folder:
        write_records(Path(folder) / "trees.jsonl", trees, ExplorationTree)
        size = (Path(folder) / "trees.jsonl").stat().st_size
    tokens = sum(tree.cost.generated_tokens for tree in trees)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return [nodes, nodes / tasks, tokens / nodes, seconds, 1000 * seconds / nodes, size / 1000 / tasks, peak]


def line(tasks: int, depth: int, cap: int) -> str:
    """Measure in a new process; return the line of the table."""
    code = f"import json; from benchmarks.scaling import measure; print(json.dumps(measure({tasks}, {depth}, {cap})))"
    done = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True)
    found = json.loads(done.stdout.splitlines()[-1])
    shown = [f"{value:,.0f}" if value >= 100 else f"{value:.1f}" for value in found]
    return f"| {tasks} | {depth} | {'none' if cap == UNCAPPED else cap} | {' | '.join(shown)} |"


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks.scaling", description=__doc__)
    parser.parse_args()
    if not POLICY.exists():
        parser.error(f"{POLICY} is not there; run `make run` first")
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}
    given = settings.load_all().on(ENV).explore
    print(f"W={given.width}\n| {' | '.join(HEADER)} |\n|{'---:|' * len(HEADER)}")
    for tasks in TASKS:
        print(line(tasks, given.depth, given.max_nodes), flush=True)
    for depth in DEPTHS:
        print(line(TASKS[0], depth, given.max_nodes), flush=True)
    for depth in DEPTHS:
        print(line(TASKS[0], depth, UNCAPPED), flush=True)


if __name__ == "__main__":
    main()
