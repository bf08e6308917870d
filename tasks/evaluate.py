"""Stage `evaluate`: one method on one panel. Every task yields one Episode per seed; what fails counts as a failure."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from qlass.envs.panels import load_panel
from qlass.evaluation import summarise
from qlass.jsonl import write_json, write_records
from qlass.records import Episode, TaskSpec
from qlass.seeds import derive_seed
from tasks import paths, settings
from tasks.rollouts import Models, Player, World
from tasks.runner import Job, run
from tasks.shards import Plan, Worker, run_shards

SAMPLED = ("best_of_n", "qlass")
"""Methods that draw replies and ask the QNet; the others are greedy and run once."""


@dataclass(frozen=True, slots=True)
class Setup:
    """What a worker process needs."""

    world: World
    models: Models
    evaluate: settings.Evaluate
    method: str
    seed: int


def start(setup: Setup) -> Worker:
    """Prepare a worker process."""
    from qlass.search import methods
    from qlass.search.branch import Sampling

    player, given = Player(setup.world, setup.models), setup.evaluate
    play: Callable[..., Any] = {
        "best_of_n": partial(methods.best_of_n, rollouts=given.rollouts),
        "qlass": partial(methods.q_guided, proposals=given.proposals),
    }.get(setup.method, partial(methods.single, method=setup.method))
    temperature = given.temperature if setup.method in SAMPLED else 0.0

    def episode(env: Any, task: tuple[TaskSpec, int]) -> Any:
        spec, number = task
        seed = derive_seed(setup.seed, "evaluate", setup.method, spec.task_id, number)
        return play(env, player.definition, spec, Sampling(temperature, seed, given.candidates), seed=number)

    def work(tasks: Sequence[tuple[TaskSpec, int]]) -> list[Episode]:
        found = player.play([partial(episode, task=task) for task in tasks])
        return [episode for episodes in found for episode in episodes]

    return work


def evaluate(setup: Setup, tasks: Sequence[TaskSpec], folder: Path, workers: int) -> list[Episode]:
    """Play all tasks, with all seeds where the method draws; finished shards lie in `folder`."""
    seeds = setup.evaluate.seeds if setup.method in SAMPLED else setup.evaluate.seeds[:1]
    items = [(spec, seed) for seed in seeds for spec in tasks]
    label = f"evaluate/{setup.world.env}/{setup.method}"
    plan = Plan(start, setup, Episode, folder, setup.evaluate.shard_size, workers, label)
    return list(run_shards(plan, items))


def measure(method: str, episodes: Sequence[Episode]) -> dict[str, Any]:
    """Return the method's metrics; Best-of-N, which picks by several rules, has those of the other rules beside them."""
    by_method: dict[str, list[Episode]] = {}
    for episode in episodes:
        by_method.setdefault(episode.method, []).append(episode)
    found: dict[str, Any] = {name: summarise(played) for name, played in by_method.items()}
    variants = {name: summary for name, summary in found.items() if name != method}
    return {**found[method], "variants": variants} if variants else dict(found[method])


def prepare(given: Any, world: World, method: str, policy: Path, qnet: Path | None) -> Setup:
    """Return the setup of a method from the settings (all of them, or those of a stage)."""
    base, evaluate = given.base, given.evaluate
    models = Models(policy, qnet, base.chat_format, base.max_length, evaluate.max_new_tokens, base.device)
    return Setup(world, models, evaluate, method, base.seed)


def main(job: Job) -> None:
    """Write episodes and metrics, and trace the first episodes."""
    env, method, split = job.cell.items.values()
    policy = paths.BASE_POLICY if method == "base" else paths.sft_policy(env)
    world = World.of(env, getattr(job.settings.envs, env))
    setup = prepare(job.settings, world, method, policy, paths.qnet(env) if method in SAMPLED else None)
    with job.work_folder() as folder:
        episodes = evaluate(setup, load_panel(paths.panel(env, split)).tasks, folder, job.settings.base.workers)
    write_records(paths.episodes(env, method, split), episodes, Episode)
    write_json(paths.metrics("evaluate", env, f"{method}-{split}"), measure(method, episodes))
    job.tracker.episodes(episodes, job.settings.tracking.max_traces)


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
