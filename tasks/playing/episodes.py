"""What the stages `evaluate` and `search` have in common: one method plays panels, and its episodes are measured.

Every task yields one Episode per row and seed; what fails counts as a failure.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Self

from qlass.envs import get_definition
from qlass.envs.core.panels import load_panel
from qlass.evaluation import Summary, summarise
from qlass.jsonl import write_json, write_records
from qlass.methods.base import Assignment, MethodSettings, get_method
from qlass.records import Episode, TaskSpec
from qlass.search.branch import Candidates
from qlass.seeds import derive_seed
from tasks.playing.rollouts import EnvSpec, Models, Player
from tasks.project import paths
from tasks.project.settings import SFT, Settings
from tasks.running.runner import StageJob
from tasks.running.shards import Crew, Plan, Worker, report_failed, run_shards


@dataclass(frozen=True, slots=True)
class EvaluationSetup:
    """What a worker process needs.

    Attributes:
        environment: what is played.
        models: the policy, and the QNet where the method asks it.
        row: of the comparison: the policy's name, or the method's.
        method: file of `qlass/methods/`.
        settings: its section.
        seed: root of all seeds.
        candidates: how replies come about.
    """

    environment: EnvSpec
    models: Models
    row: str
    method: str
    settings: MethodSettings
    seed: int
    candidates: Candidates

    @classmethod
    def of(cls, given: Settings, environment: EnvSpec, models: Models, row: str, method: str) -> Self:
        """Take the rest from the settings (all of them, or those of a stage)."""
        return cls(environment, models, row, method, given.methods[method], given.base.seed, given.evaluate.candidates)


def searching(given: Settings, environment: EnvSpec, method: str, policy: Path, qnet: Path) -> EvaluationSetup:
    """Return the setup of a method that draws replies of the SFT policy.

    Args:
        given: all settings, or those of a stage.
        environment: what is played.
        method: file of `qlass/methods/`.
        policy: folder of the SFT policy.
        qnet: folder of the QNet; loaded where the method needs it.
    """
    needed = qnet if get_method(method).needs_qnet else None
    models = Models.of(given, environment.env, SFT, policy, needed)
    return EvaluationSetup.of(given, environment, models, method, method)


def start(setup: EvaluationSetup) -> Worker:
    """Prepare a worker process."""
    player, method = Player(setup.environment, setup.models), get_method(setup.method)
    served = setup.models.served
    logprobs = served is None or served.logprobs

    def episodes(env: Any, task: tuple[TaskSpec, int]) -> Any:
        spec, number = task
        seed = derive_seed(setup.seed, "evaluate", method.seeded_as or setup.row, spec.task_id, number)
        given = Assignment(env, player.definition, spec, setup.row, number, seed, setup.candidates, logprobs)
        return method.routine(given, setup.settings)

    def work(tasks: Sequence[tuple[TaskSpec, int]]) -> list[Episode]:
        found = player.play([partial(episodes, task=task) for task in tasks])
        return [episode for played in found for episode in played]

    return work


def play_all(
    setup: EvaluationSetup, tasks: Sequence[TaskSpec], folder: Path, *, shard_size: int, crew: Crew
) -> list[Episode]:
    """Play all tasks with all seeds of the method; finished shards lie in `folder`.

    Raises:
        EnvironmentFault: the environment could play none of the tasks; where it can play some, the others are failures.
    """
    items = [(spec, seed) for seed in setup.settings.played_seeds() for spec in tasks]
    label = f"{setup.row}/{setup.environment.env}"
    plan = Plan(start, setup, Episode, folder, shard_size, crew, label, setup.models.folders)
    episodes: list[Episode] = list(run_shards(plan, items))
    failed = {f"{one.task_id} (seed {one.seed})": one.error for one in episodes if one.error}
    report_failed(plan, failed, len(items))
    return episodes


def measure(row: str, episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return the metrics of a row; those of the further rows of its method stand beside them, under `variants`.

    Where episodes could not be finished, their tasks are named with the reason, under `failed_tasks`.
    """
    by_row: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_row.setdefault(episode.method, []).append(episode)
    found: dict[str, Summary] = {name: summarise(played) for name, played in by_row.items()}
    variants = {name: summary for name, summary in found.items() if name != row}
    failed = {episode.task_id: episode.error for episode in by_row[row] if episode.error}
    further = {"variants": variants, "failed_tasks": failed}
    return {**found[row], **{name: value for name, value in further.items() if value}}


def record(job: StageJob, setup: EvaluationSetup) -> None:
    """Play the panels of the environment; write episodes and metrics by split, and trace the first episodes."""
    env, row, given = setup.environment.env, setup.row, job.settings.evaluate
    metrics: dict[str, Any] = {}
    with job.work_folder() as folder:
        for split in given.of(get_definition(env).splits):
            tasks = load_panel(paths.panel(env, split)).tasks
            crew = Crew.of(job.settings.base)
            episodes = play_all(setup, tasks, folder / split, shard_size=given.shard_size, crew=crew)
            write_records(paths.episodes(env, row, split), episodes, Episode)
            metrics[split] = measure(row, episodes)
            job.tracker.episodes(episodes, job.settings.tracking.max_traces)
    write_json(paths.metrics("evaluate", env, row), metrics)
