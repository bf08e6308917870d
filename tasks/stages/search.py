"""Stage `search`: the SFT policy, its replies drawn and chosen with the QNet, on one panel."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Any

from qlass.search.branch import Sampling
from qlass.search.methods import Adaptive, best_of_n, q_guided
from tasks.playing.episodes import EvaluationSetup, record
from tasks.playing.rollouts import EnvSpec, Models
from tasks.project import paths
from tasks.running.runner import StageJob, run


def prepare(given: Any, environment: EnvSpec, method: str, policy: Path, qnet: Path) -> EvaluationSetup:
    """Return the setup of a method from the settings (all of them, or those of a stage)."""
    base, evaluate, adds = given.base, given.evaluate, given.evaluate.adaptive
    adaptive = Adaptive(
        prior=adds.prior,
        max_redraws=adds.max_redraws,
        redraw_below=adds.redraw_below,
        redraw_temperature=adds.redraw_temperature,
    )
    play = {
        "best_of_n": partial(best_of_n, rollouts=evaluate.rollouts),
        "qlass": partial(q_guided, proposals=evaluate.proposals),
        "qlass_adaptive": partial(q_guided, proposals=evaluate.proposals, adaptive=adaptive),
    }[method]
    models = Models.of(given, environment.env, "sft", policy, qnet, evaluate.max_new_tokens)
    return EvaluationSetup(
        environment, models, method, play, Sampling(evaluate.temperature, base.seed, evaluate.candidates)
    )


def main(job: StageJob) -> None:
    """Write episodes and metrics, and trace the first episodes."""
    env, method, _ = job.cell.items.values()
    environment = EnvSpec.of(env, getattr(job.settings.envs, env))
    setup = prepare(job.settings, environment, method, paths.sft_policy(env), paths.qnet(env))
    record(job, setup, job.settings.evaluate.seeds)


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
