"""Two threads beside a busy neighbour: `two_threads_beside_neighbour`, in seconds of the clock.

Another process keeps a core busy while the same SFT passes run on one thread and on two. Threads of OpenMP that spin while they
wait take the core from those they wait for; `tasks.project.variables` therefore lets them sleep (`OMP_WAIT_POLICY=PASSIVE`). Ours is two
threads that sleep, the other is one thread; below 1, two threads are slower than one.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from time import perf_counter
from typing import Any

from benchmarks.rows import Row


def measure(trajectories: int, rounds: int) -> tuple[int, float]:
    """Return the tokens of a pass and the seconds of the fastest one, on as many threads as this process has."""
    from benchmarks.training import Data, one_pass, sft_module

    rows, module = Data(0, trajectories).sft_rows(), sft_module()
    times = []
    for _ in range(rounds + 1):  # the first one warms up
        start = perf_counter()
        one_pass(module, rows)
        times.append(perf_counter() - start)
    return sum(len(row.ids) for row in rows), min(times[1:])


def in_process(threads: int, trajectories: int, rounds: int) -> tuple[int, float]:
    """Measure in a process of its own: the number of threads and how they wait are read when torch is imported."""
    command = [sys.executable, "-m", "benchmarks.threads", str(trajectories), str(rounds)]
    environment = {**os.environ, "OMP_NUM_THREADS": str(threads), "OMP_WAIT_POLICY": "PASSIVE"}
    done = subprocess.run(command, env=environment, check=True, stdout=subprocess.PIPE, text=True)
    found: Any = json.loads(done.stdout.splitlines()[-1])
    return int(found[0]), float(found[1])


def rows(trajectories: int = 12, rounds: int = 3) -> list[Row]:
    """Measure both beside a process that never rests."""
    with subprocess.Popen([sys.executable, "-c", "while True: pass"]) as neighbour:
        try:
            tokens, one = in_process(1, trajectories, rounds)
            _, two = in_process(2, trajectories, rounds)
        finally:
            neighbour.kill()
    how = (
        f"SFT passes over {tokens:,} tokens, one busy process on {os.cpu_count()} cores; ours: two threads, other: one"
    )
    return [Row.of("two_threads_beside_neighbour", tokens / two, tokens / one, "tokens per second", how)]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("trajectories", type=int)
    parser.add_argument("rounds", type=int)
    given = parser.parse_args()
    print(json.dumps(measure(given.trajectories, given.rounds)))


if __name__ == "__main__":
    main()
