"""Loss curves: rows of numbers as CSV for DVC and the report, and as series for MLflow."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, is_dataclass
from pathlib import Path
from typing import Any

from qlass.jsonl import replacing
from tasks.experiments.tracking import Tracker

LOSS = ("step", "epoch", "loss", "lr", "tokens")
CALIBRATION = ("bin_low", "bin_high", "n", "mean_predicted", "mean_target")
SIBLINGS = ("depth", "n_pairs", "pairwise_accuracy", "n_groups", "rank_correlation")


def write_csv(path: Path, columns: Sequence[str], rows: Sequence[Any]) -> None:
    """Write dataclasses or mappings with these fields as CSV; None is an empty cell. No rows leave the header."""
    plain = [asdict(row) if is_dataclass(row) and not isinstance(row, type) else dict(row) for row in rows]
    with replacing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.DictWriter(file, columns, lineterminator="\n")
        writer.writeheader()
        writer.writerows(plain)


def log_curve(tracker: Tracker, curve: Iterable[Any]) -> None:
    """Log the loss curve over optimizer steps."""
    for row in curve:
        tracker.metrics({"loss": row.loss, "lr": row.lr, "epoch": row.epoch, "tokens": row.tokens}, row.step)
