"""Stage `evaluate`: a policy alone, played greedily, on all splits of its environment."""

from __future__ import annotations

from pathlib import Path

from tasks.playing.episodes import EvaluationSetup, record
from tasks.playing.rollouts import EnvSpec, Models
from tasks.project import paths
from tasks.running.runner import StageJob, run

METHOD = "greedy"


def main(job: StageJob) -> None:
    """Write episodes and metrics, and trace the first episodes."""
    env, policy = job.cell.items.values()
    given = job.settings
    models = Models.of(given, env, policy, paths.policy(env, policy), None)
    record(job, EvaluationSetup.of(given, EnvSpec.of(env, given.envs[env]), models, policy, METHOD))


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
