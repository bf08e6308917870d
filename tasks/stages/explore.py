"""Stage `explore`: one exploration tree per training task.

A task that the environment cannot play has no tree; it is named in the metrics, and the stage goes on.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qlass.envs.core.panels import load_panel
from qlass.errors import EnvironmentFault
from qlass.jsonl import read_records, write_json, write_records
from qlass.records import Exploration, ExplorationTree, TaskSpec, Trajectory
from qlass.seeds import derive_seed
from qlass.settings import first
from tasks.playing.rollouts import EnvSpec, Models, Player
from tasks.project import paths, settings
from tasks.running.runner import StageJob, run
from tasks.running.shards import Crew, Plan, Worker, report_failed, run_shards


@dataclass(frozen=True, slots=True)
class ExploreSetup:
    """What a worker process needs."""

    environment: EnvSpec
    models: Models
    explore: settings.Explore
    seed: int


def start(setup: ExploreSetup) -> Worker:
    """Prepare a worker process."""
    from qlass.search.explore import explore

    player, given = Player(setup.environment, setup.models), setup.explore

    def grow(env: Any, task: tuple[TaskSpec, Trajectory | None]) -> Any:
        spec, expert = task
        seed = derive_seed(setup.seed, "explore", spec.task_id)
        try:
            tree = yield from explore(env, player.definition, spec, given, expert, seed=seed)
        except EnvironmentFault as fault:  # this tree is lost, the others are not
            return Exploration(spec.task_id, None, str(fault))
        return Exploration(spec.task_id, tree)

    return lambda tasks: player.play([partial(grow, task=task) for task in tasks])


def summary(trees: Sequence[ExplorationTree], failed: Mapping[str, str] = {}) -> dict[str, Any]:
    """Return counts over all trees; a branch is sampled when the policy and not the expert ended it.

    Args:
        trees: at least one.
        failed: tasks without a tree, and why; they are named where there are any.
    """
    ends = [_ends(tree) for tree in trees]
    sampled = [node for found in ends for node in found if node.origin != "expert"]
    total = {name: sum(getattr(tree.cost, name) for tree in trees) for name in trees[0].cost.__dataclass_fields__}
    return {
        "trees": len(trees),
        "nodes": sum(len(tree.nodes) for tree in trees),
        "nodes_per_tree": sum(len(tree.nodes) for tree in trees) / len(trees),
        "branches": sum(map(len, ends)),
        "sampled_branches": len(sampled),
        "sampled_mean_reward": 100 * sum(node.step.reward for node in sampled) / max(len(sampled), 1),
        "rewarded_by_sampling": sum(any(n.origin != "expert" and n.step.reward > 0 for n in found) for found in ends),
        "invalid_action_rate": sum(not n.step.valid for tree in trees for n in tree.nodes)
        / max(sum(len(tree.nodes) for tree in trees), 1),
        **{name: sum(getattr(tree, name) for tree in trees) for name in ("redraws", "narrow", "stopped", "capped")},
        **total,
        **({"errors": len(failed), "failed_tasks": dict(failed)} if failed else {}),
    }


def _ends(tree: ExplorationTree) -> list[Any]:
    """Return the last node of every branch."""
    parents = {node.parent_id for node in tree.nodes}
    return [node for node in tree.nodes if node.node_id not in parents]


def tasks_of(name: str, count: int | None) -> list[tuple[TaskSpec, Trajectory | None]]:
    """Return the first training tasks, each with its expert trajectory where the expert solved it."""
    chosen = first(load_panel(paths.panel(name, "train")).tasks, count, "explore.tasks", "the panel")
    experts = {trajectory.task_id: trajectory for trajectory in read_records(paths.trajectories(name), Trajectory)}
    return [(spec, experts.get(spec.task_id)) for spec in chosen]


def main(job: StageJob) -> None:
    """Write trees and what they consist of."""
    name, given = job.cell.items["env"], job.settings.explore
    base = job.settings.base
    models = Models.of(job.settings, name, settings.SFT, paths.policy(name, settings.SFT), None)
    setup = ExploreSetup(EnvSpec.of(name, job.settings.envs[name]), models, given, base.seed)
    tasks = tasks_of(name, given.tasks)
    with job.work_folder() as folder:
        label, size = f"explore/{name}", given.shard_size
        plan = Plan(start, setup, Exploration, folder, size, Crew.of(base), label, models.folders)
        explored = list(run_shards(plan, tasks, lambda done: job.tracker.metrics({"tasks_done": done}, done)))
        failed = {one.task_id: one.error for one in explored if one.error}
        report_failed(plan, failed, len(tasks))
    trees = [one.tree for one in explored if one.tree is not None]
    write_records(paths.trees(name), trees, ExplorationTree)
    write_json(paths.metrics("explore", name), summary(trees, failed))


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
