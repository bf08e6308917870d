"""What evaluated episodes amount to: summaries with their costs, and intervals over tasks and over runs."""

from qlass.evaluation.bootstrap import (
    Interval,
    bootstrap_mean,
    hierarchical_bootstrap,
    interval_over_runs,
    paired_bootstrap,
    paired_differences,
    t_interval,
)
from qlass.evaluation.metrics import Summary, mean_by_task, summarise

__all__ = [
    "Interval",
    "Summary",
    "bootstrap_mean",
    "hierarchical_bootstrap",
    "interval_over_runs",
    "mean_by_task",
    "paired_bootstrap",
    "paired_differences",
    "summarise",
    "t_interval",
]
