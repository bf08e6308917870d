"""What the stages `evaluate` and `search` have in common: one method plays one panel, and its episodes are measured.

Every task yields one Episode per seed; what fails counts as a failure.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

from qlass.envs.core.panels import load_panel
from qlass.evaluation import summarise
from qlass.jsonl import write_json, write_records
from qlass.records import Episode, TaskSpec
from qlass.search.branch import Sampling
from qlass.seeds import derive_seed
from tasks.playing.rollouts import EnvSpec, Models, Player
from tasks.project import paths
from tasks.running.runner import StageJob
from tasks.running.shards import Crew, Plan, Worker, run_shards


@dataclass(frozen=True, slots=True)
class EvaluationSetup:
    """What a worker process needs.

    Attributes:
        environment: the environment.
        models: the policy, and the QNet where the method asks it.
        method: row of the comparison.
        play: the method's routine in `qlass.search.methods`, with the settings that only this method has.
        sampling: how it draws replies; `base.seed` is the root of all seeds.
    """

    environment: EnvSpec
    models: Models
    method: str
    play: Callable[..., Any]
    sampling: Sampling


def start(setup: EvaluationSetup) -> Worker:
    """Prepare a worker process."""
    player, sampling = Player(setup.environment, setup.models), setup.sampling

    def episode(env: Any, task: tuple[TaskSpec, int]) -> Any:
        spec, number = task
        seed = derive_seed(sampling.seed, "evaluate", setup.method, spec.task_id, number)
        return setup.play(env, player.definition, spec, replace(sampling, seed=seed), seed=number)

    def work(tasks: Sequence[tuple[TaskSpec, int]]) -> list[Episode]:
        found = player.play([partial(episode, task=task) for task in tasks])
        return [episode for episodes in found for episode in episodes]

    return work


def play_all(
    setup: EvaluationSetup,
    tasks: Sequence[TaskSpec],
    seeds: Sequence[int],
    folder: Path,
    *,
    shard_size: int,
    crew: Crew,
) -> list[Episode]:
    """Play all tasks with all seeds; finished shards lie in `folder`."""
    items = [(spec, seed) for seed in seeds for spec in tasks]
    label = f"{setup.method}/{setup.environment.env}"
    plan = Plan(start, setup, Episode, folder, shard_size, crew, label, setup.models.folders)
    return list(run_shards(plan, items))


def measure(method: str, episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return the method's metrics; Best-of-N, which picks by several rules, has those of the other rules beside them."""
    by_method: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_method.setdefault(episode.method, []).append(episode)
    found: dict[str, Any] = {name: summarise(played) for name, played in by_method.items()}
    variants = {name: summary for name, summary in found.items() if name != method}
    return {**found[method], "variants": variants} if variants else dict(found[method])


def record(job: StageJob, setup: EvaluationSetup, seeds: Sequence[int]) -> None:
    """Play the job's panel; write episodes and metrics, and trace the first episodes."""
    env, method, split = job.cell.items.values()
    tasks, size = load_panel(paths.panel(env, split)).tasks, job.settings.evaluate.shard_size
    with job.work_folder() as folder:
        episodes = play_all(setup, tasks, seeds, folder, shard_size=size, crew=Crew.of(job.settings.base))
    write_records(paths.episodes(env, method, split), episodes, Episode)
    write_json(paths.metrics("evaluate", env, f"{method}-{split}"), measure(method, episodes))
    job.tracker.episodes(episodes, job.settings.tracking.max_traces)
