"""Stage `label`: exploration trees to Q-values, one row per node."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from qlass.errors import DataError
from qlass.jsonl import iter_records, write_json
from qlass.labels import label_tree, labels_to_parquet
from qlass.records import ExplorationTree, QLabel
from tasks import paths
from tasks.progress import Progress
from tasks.runner import Job, run


def main(job: Job) -> None:
    """Write the table of labels and what it consists of."""
    env, gamma = job.cell.items["env"], job.settings.label.gamma
    progress = Progress(f"label/{env}", None)
    labelled: list[list[QLabel]] = []
    for tree in iter_records(paths.trees(env), ExplorationTree):
        labelled.append(label_tree(tree, gamma))
        progress.update(len(labelled), labels=len(labelled[-1]))
    rows = [label for labels in labelled for label in labels]
    if not rows:
        raise DataError(f"{paths.trees(env)}: no node to label; explore more tasks or fix the policy")
    labels_to_parquet(paths.labels(env), rows)
    write_json(paths.metrics("label", env), summary(labelled))


def summary(labelled: Sequence[Sequence[QLabel]]) -> dict[str, Any]:
    """Return counts and means; a tree is flat when all its labels are equal (it cannot teach a preference)."""
    rows = [label for labels in labelled for label in labels]
    return {
        "trees": len(labelled),
        "labels": len(rows),
        "labels_per_tree": len(rows) / len(labelled),
        "flat_trees": sum(len({label.q for label in labels}) <= 1 for labels in labelled),
        "solved_trees": sum(max((label.reward for label in labels), default=0.0) > 0 for labels in labelled),
        "mean_q": sum(label.q for label in rows) / len(rows),
        "mean_q_norm": sum(label.q_norm for label in rows) / len(rows),
        "positive_share": sum(label.q > 0 for label in rows) / len(rows),
    }


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
