"""Stage `qnet`: train the QNet on labelled trees and measure it on tasks kept aside."""

from __future__ import annotations

from pathlib import Path

from qlass.jsonl import read_records, write_json
from qlass.labels.table import iter_labels
from qlass.records import ExplorationTree
from qlass.seeds import derive_seed
from tasks.experiments import curves
from tasks.project import paths
from tasks.project.settings import SFT
from tasks.running.runner import StageJob, run


def main(job: StageJob) -> None:
    """Train, then write model, loss curve, calibration, sibling ranking and metrics."""
    from qlass.qnet.train import train_qnet
    from qlass.training.objectives.value import label_column

    env, base, given = job.cell.items["env"], job.settings.base, job.settings.qnet
    with job.work_folder() as folder:
        result = train_qnet(
            paths.policy(env, SFT),
            read_records(paths.trees(env), ExplorationTree),
            iter_labels(paths.labels(env)),
            column=label_column(job.settings.label.q_type, given.target),
            instruction=paths.instruction(env).read_text(encoding="utf-8"),
            settings=given,
            out_dir=paths.qnet(env),
            work_dir=folder,
            seed=derive_seed(base.seed, "qnet", env),
            max_length=base.max_length,
            max_new_tokens=base.max_new_tokens,
            chat_format=base.chat_format,
            device=base.device,
        )
    curves.write_csv(paths.loss("qnet", env), curves.LOSS, result.curve)
    curves.write_csv(paths.table("calibration", env), curves.CALIBRATION, result.calibration)
    curves.write_csv(paths.table("siblings", env), curves.SIBLINGS, result.siblings)
    write_json(paths.metrics("qnet", env), result.metrics)
    curves.log_curve(job.tracker, result.curve)


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
