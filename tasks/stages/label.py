"""Stage `label`: exploration trees to Q-values, one row per node."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlass.errors import DataError
from qlass.jsonl import iter_records, write_json
from qlass.labels import label_tree, labels_to_parquet
from qlass.records import ExplorationTree, QLabel
from tasks.project import paths
from tasks.running.progress import Progress
from tasks.running.runner import StageJob, run


@dataclass(slots=True)
class Summary:
    """Counts and means of labels; trees are labelled one by one and none is kept."""

    trees: int = 0
    labels: int = 0
    flat_trees: int = 0
    solved_trees: int = 0
    positive: int = 0
    q: float = 0.0
    q_norm: float = 0.0

    def add(self, labels: list[QLabel]) -> None:
        """Count the labels of one tree."""
        self.trees += 1
        self.labels += len(labels)
        self.flat_trees += len({label.q for label in labels}) <= 1
        self.solved_trees += any(label.reward > 0 for label in labels)
        self.positive += sum(label.q > 0 for label in labels)
        self.q += sum(label.q for label in labels)
        self.q_norm += sum(label.q_norm for label in labels)

    def metrics(self) -> dict[str, Any]:
        """Return the numbers; a tree is flat when all its labels are equal (it cannot teach a preference)."""
        return {
            "trees": self.trees,
            "labels": self.labels,
            "labels_per_tree": self.labels / self.trees,
            "flat_trees": self.flat_trees,
            "solved_trees": self.solved_trees,
            "mean_q": self.q / self.labels,
            "mean_q_norm": self.q_norm / self.labels,
            "positive_share": self.positive / self.labels,
        }


def main(job: StageJob) -> None:
    """Write the table of labels and what it consists of."""
    env, gamma = job.cell.items["env"], job.settings.label.gamma
    progress, summary = Progress(f"label/{env}", None), Summary()

    def labels() -> Iterator[QLabel]:
        for tree in iter_records(paths.trees(env), ExplorationTree):
            found = label_tree(tree, gamma)
            summary.add(found)
            progress.update(summary.trees, labels=len(found))
            yield from found
        if not summary.labels:
            raise DataError(f"{paths.trees(env)}: no node to label; explore more tasks or fix the policy")

    labels_to_parquet(paths.labels(env), labels())
    write_json(paths.metrics("label", env), summary.metrics())


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
