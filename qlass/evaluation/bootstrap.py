"""Percentile bootstrap intervals over tasks: tasks are what a panel is a sample of, seeds are repeats inside a task."""

from __future__ import annotations

from collections.abc import Mapping
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qlass.errors import DataError, SettingsError


class Interval(NamedTuple):
    """A mean and its bootstrap interval, in the unit of the values."""

    mean: float
    low: float
    high: float


def bootstrap_mean(values_by_task: ArrayLike, *, resamples: int, confidence: float, seed: int) -> Interval:
    """Return the mean over tasks with its bootstrap interval.

    Args:
        values_by_task: (tasks,) one value per task, or (tasks, seeds), which are averaged inside the task.
        resamples: draws of as many tasks as there are, with replacement.
        confidence: share of the resampled means inside the interval, for example 0.95.
        seed: of the draws; equal seeds give equal intervals.

    Raises:
        DataError: no tasks, or a value that is not a finite number.
        SettingsError: `resamples` or `confidence` is out of range.
    """
    if resamples < 1 or not 0 < confidence < 1:
        raise SettingsError(f"bootstrap={resamples}, confidence={confidence}; allowed are at least 1, and 0 to 1")
    values = np.asarray(values_by_task, dtype=np.float64)  # (tasks,) or (tasks, seeds)
    if values.ndim not in (1, 2) or values.size == 0 or not np.isfinite(values).all():
        raise DataError(f"values of shape {values.shape}: finite numbers, (tasks,) or (tasks, seeds), are needed")
    means = values.mean(axis=1) if values.ndim == 2 else values  # (tasks,)
    means = np.sort(means)  # the interval must not depend on the order of the tasks
    tail = (1 - confidence) / 2
    low, high = np.quantile(_resampled_means(means, resamples, seed), [tail, 1 - tail])
    return Interval(float(means.mean()), float(low), float(high))


def paired_bootstrap(
    a_by_task: Mapping[str, float], b_by_task: Mapping[str, float], *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Return the mean of a - b over the same tasks with its bootstrap interval.

    Both methods are resampled together, so what is hard about a task cancels; 0 outside the interval means that the
    difference is not explained by the choice of tasks.

    Args:
        a_by_task: task_id -> value of the first method, averaged over seeds (`mean_by_task`).
        b_by_task: the same for the second method.
        resamples: see `bootstrap_mean`.
        confidence: see `bootstrap_mean`.
        seed: see `bootstrap_mean`.

    Raises:
        DataError: the two methods were not evaluated on the same tasks.
        SettingsError: see `bootstrap_mean`.
    """
    if a_by_task.keys() != b_by_task.keys():
        only = sorted(a_by_task.keys() ^ b_by_task.keys())
        raise DataError(f"a paired comparison needs the same tasks; {len(only)} have one value only, as {only[0]}")
    differences = [a_by_task[task_id] - b_by_task[task_id] for task_id in a_by_task]
    return bootstrap_mean(differences, resamples=resamples, confidence=confidence, seed=seed)


def _resampled_means(values: NDArray[np.float64], resamples: int, seed: int) -> NDArray[np.float64]:
    """Return (resamples,) means of tasks drawn with replacement."""
    rng = np.random.default_rng(seed)
    return np.array([values[rng.integers(0, len(values), len(values))].mean() for _ in range(resamples)])
