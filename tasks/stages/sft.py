"""Stage `sft`: behaviour cloning of the base policy on the expert's trajectories."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path

from qlass.envs import get_definition
from qlass.jsonl import read_records, write_json
from qlass.records import Trajectory
from qlass.seeds import derive_seed
from tasks.experiments import curves
from tasks.project import paths, settings
from tasks.running.runner import StageJob, run


def main(job: StageJob) -> None:
    """Train, then write policy, loss curve and metrics."""
    from qlass.training.settings import TrainSettings
    from qlass.training.sft import train_sft

    env, base, given = job.cell.items["env"], job.settings.base, asdict(job.settings.sft)
    solved = read_records(paths.trajectories(env), Trajectory)
    trajectories = settings.first(solved, given.pop("trajectories"), "sft.trajectories", "those of the expert")
    with job.work_folder() as folder:
        result = train_sft(
            paths.BASE_POLICY,
            trajectories,
            instruction=get_definition(env).instruction,
            settings=TrainSettings.from_params("sft", given),
            out_dir=paths.sft_policy(env),
            work_dir=folder,
            seed=derive_seed(base.seed, "sft", env),
            max_length=base.max_length,
            chat_format=base.chat_format,
            device=base.device,
        )
    curves.write_csv(paths.loss("sft", env), curves.LOSS, result.curve)
    write_json(paths.metrics("sft", env), result.metrics)
    curves.log_curve(job.tracker, result.curve)


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
