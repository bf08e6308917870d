"""Stage 3, first half: from exploration trees to Q-values, one row per node."""

from qlass.labels.backup import label_tree
from qlass.labels.table import iter_labels, labels_to_parquet, read_labels

__all__ = ["iter_labels", "label_tree", "labels_to_parquet", "read_labels"]
