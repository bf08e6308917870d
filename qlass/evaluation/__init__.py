"""What evaluated episodes amount to: summaries with their costs, and intervals."""

from qlass.evaluation.bootstrap import bootstrap_mean, paired_bootstrap
from qlass.evaluation.metrics import Summary, mean_by_task, summarise

__all__ = ["Summary", "bootstrap_mean", "mean_by_task", "paired_bootstrap", "summarise"]
