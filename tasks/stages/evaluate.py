"""Stage `evaluate`: a policy alone, played greedily, on one panel."""

from __future__ import annotations

from functools import partial
from pathlib import Path

from qlass.search.branch import Sampling
from qlass.search.methods import single
from tasks.playing.episodes import EvaluationSetup, record
from tasks.playing.rollouts import EnvSpec, Models
from tasks.project import paths
from tasks.running.runner import StageJob, run


def main(job: StageJob) -> None:
    """Write episodes and metrics, and trace the first episodes."""
    env, method, _ = job.cell.items.values()
    base, given = job.settings.base, job.settings.evaluate
    policy = paths.BASE_POLICY if method == "base" else paths.sft_policy(env)
    setup = EvaluationSetup(
        EnvSpec.of(env, getattr(job.settings.envs, env)),
        Models.of(job.settings, env, "base" if method == "base" else "sft", policy, None, given.max_new_tokens),
        method,
        partial(single, method=method),
        Sampling(0.0, base.seed, given.candidates),
    )
    record(job, setup, seeds=(0,))  # nothing is drawn, so another seed would give the same episodes


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
