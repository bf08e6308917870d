"""Stage `expert`: the panels of an environment, and an expert's trajectories on its training tasks.

Every trajectory is verified: its actions, replayed after a new reset, must give the same observations and the reward.
A task that the environment cannot play stays in its panel, so that panels do not depend on the state of a disk; it counts
as not solved, is named in the statistics, and the stage goes on.
"""

from __future__ import annotations

import weakref
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qlass.envs import get_definition, make_env
from qlass.envs.core.panels import Panel, build_panel, check_disjoint, save_panel
from qlass.envs.core.pool import EnvPool
from qlass.errors import DataError, EnvironmentFault
from qlass.jsonl import replacing, write_json, write_records
from qlass.records import Demonstration, TaskSpec, Trajectory
from tasks.playing.demonstrate import play, verify
from tasks.project import paths
from tasks.running.runner import StageJob, run
from tasks.running.shards import Crew, Plan, Worker, report_failed, run_shards

SHARD = 50
"""Tasks per file of finished work; no result depends on it."""


@dataclass(frozen=True, slots=True)
class ExpertSetup:
    """What a worker process needs."""

    env: str
    options: Mapping[str, Any]
    max_steps: int
    thoughts: bool
    seed: int


def start(setup: ExpertSetup) -> Worker:
    """Prepare what plays tasks and verifies them, on another engine if a process may hold two; runs once in every worker."""
    definition = get_definition(setup.env)
    pool = EnvPool(partial(make_env, definition, setup.options, setup.max_steps))

    def demonstrate(spec: TaskSpec) -> Demonstration:
        engines = [pool.take() for _ in range(1 if definition.max_engines == 1 else 2)]
        try:
            trajectory = play(engines[0], definition, spec, seed=setup.seed, thoughts=setup.thoughts)
            verify(engines[-1], spec, trajectory)
        except EnvironmentFault as fault:
            return Demonstration(spec.task_id, None, str(fault))
        finally:
            for engine in reversed(engines):
                pool.give_back(engine)
        return Demonstration(spec.task_id, trajectory)

    def work(specs: Sequence[TaskSpec]) -> list[Demonstration]:
        return [demonstrate(spec) for spec in specs]

    weakref.finalize(work, pool.close)  # at the latest when the process ends
    return work


def statistics(
    panels: Mapping[str, Panel], played: Sequence[Trajectory], failed: Mapping[str, str] = {}
) -> dict[str, Any]:
    """Return the rows of Table 1, and how often the expert succeeds (in per cent).

    Args:
        panels: by split.
        played: on training tasks.
        failed: training tasks that could not be played, and why; they count as not solved, and are named where there
            are any.
    """
    category = {task.task_id: task.category for task in panels["train"].tasks}
    names = dict.fromkeys(category.values())
    groups = {name: [t for t in played if category[t.task_id] == name] for name in names}
    lost = Counter(category[task_id] for task_id in failed)
    return {
        "tasks": {split: len(panel.tasks) for split, panel in panels.items()},
        "by_category": {name: _summary(group, lost[name]) for name, group in groups.items()},
        **_summary(played, len(failed)),
        **({"errors": len(failed), "failed_tasks": dict(failed)} if failed else {}),
    }


def _summary(played: Sequence[Trajectory], lost: int) -> dict[str, float]:
    """Return counts, success rate and mean turns of the solved ones; `lost` tasks could not be played."""
    turns = [len(trajectory.steps) for trajectory in played if trajectory.success]
    return {
        "played": len(played),
        "trajectories": len(turns),
        "success_rate": 100 * len(turns) / (len(played) + lost),
        "mean_turns": sum(turns) / len(turns) if turns else 0.0,
    }


def main(job: StageJob) -> None:
    """Write panels, instruction, trajectories and statistics."""
    name, settings = job.cell.items["env"], job.settings
    env = settings.envs[name]
    panels = build_panels(name, env.panel, env.options, settings.base.seed)
    setup = ExpertSetup(name, env.options, env.max_steps, settings.expert.thoughts, settings.base.seed)
    with job.work_folder() as folder:
        crew, tasks = Crew(settings.base.workers, settings.base.fanout), panels["train"].tasks
        # Panels can also depend on files that are no input of the stage (`options.data` of alfworld).
        shards = folder / panels["train"].sha256
        plan = Plan(start, setup, Demonstration, shards, SHARD, crew, f"expert/{name}")
        demonstrations = list(run_shards(plan, tasks))
        failed = {one.task_id: one.error for one in demonstrations if one.error}
        report_failed(plan, failed, len(tasks))
    played = [one.trajectory for one in demonstrations if one.trajectory is not None]
    solved = [trajectory for trajectory in played if trajectory.success]
    if not solved:
        raise DataError(f"expert of {name}: none of {len(played)} tasks solved; raise envs.{name}.max_steps?")
    with replacing(paths.instruction(name)) as temporary:
        temporary.write_text(get_definition(name).instruction, encoding="utf-8")
    write_records(paths.trajectories(name), solved, Trajectory)
    for split, panel in panels.items():
        save_panel(paths.panel(name, split), panel)
    write_json(paths.expert_stats(name), statistics(panels, played, failed))


def build_panels(name: str, counts: Mapping[str, int], options: Mapping[str, Any], seed: int) -> dict[str, Panel]:
    """Return the panel of every split, no task in two of them; `counts` are the tasks of each."""
    definition = get_definition(name)
    panels = {split: build_panel(definition, options, split, count, seed) for split, count in counts.items()}
    check_disjoint(panels.values())
    return panels


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
