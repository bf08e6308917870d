"""Stage `search`: a method that draws replies of the SFT policy, on all splits of its environment."""

from __future__ import annotations

from pathlib import Path

from tasks.playing.episodes import EvaluationSetup, record, searching
from tasks.playing.rollouts import EnvSpec
from tasks.project import paths
from tasks.project.settings import SFT
from tasks.running.runner import StageJob, run


def main(job: StageJob) -> None:
    """Write episodes and metrics, and trace the first episodes."""
    env, method = job.cell.items.values()
    environment = EnvSpec.of(env, job.settings.envs[env])
    setup: EvaluationSetup = searching(job.settings, environment, method, paths.policy(env, SFT), paths.qnet(env))
    record(job, setup)


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
