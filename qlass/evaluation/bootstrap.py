"""Intervals of means: over the tasks of one run, or over several runs and their tasks.

A *run* is one execution of the pipeline: other seeds train other policies, on other games. Seeds inside a task are
repeats of one run and are averaged first. The tasks of several runs are no larger sample of tasks: those of one run
share its training, so runs are resampled as well.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

from qlass.errors import DataError, SettingsError
from qlass.evaluation.student import student_quantile


@dataclass(frozen=True, slots=True)
class Interval:
    """A mean and its interval, in the unit of the values.

    Attributes:
        mean: of all values; of several runs, the mean of their means.
        low: lower end.
        high: upper end.
        over: what the values are a sample of, and so what else the interval speaks for. "tasks": the same run on other
            tasks of this kind. "runs": other runs. "tasks and runs": other runs on other tasks.
    """

    mean: float
    low: float
    high: float
    over: Literal["tasks", "runs", "tasks and runs"]


def bootstrap_mean(values_by_task: ArrayLike, *, resamples: int, confidence: float, seed: int) -> Interval:
    """Return the mean over the tasks of one run with its percentile bootstrap interval over tasks.

    Args:
        values_by_task: (tasks,) one value per task, or (tasks, seeds), which are averaged inside the task.
        resamples: draws of as many tasks as there are, with replacement.
        confidence: share of the resampled means inside the interval, for example 0.95.
        seed: of the draws; equal seeds give equal intervals, whatever the order of the tasks.

    Raises:
        DataError: no tasks, or a value that is not a finite number.
        SettingsError: `resamples` or `confidence` is out of range.
    """
    _check_settings(resamples, confidence)
    values = np.asarray(values_by_task, dtype=np.float64)  # (tasks,) or (tasks, seeds)
    if values.ndim not in (1, 2) or values.size == 0 or not np.isfinite(values).all():
        raise DataError(f"values of shape {values.shape}: finite numbers, (tasks,) or (tasks, seeds), are needed")
    means = values.mean(axis=1) if values.ndim == 2 else values  # (tasks,)
    means = np.sort(means)  # the interval must not depend on the order of the tasks
    drawn = _resampled_means(means, resamples, np.random.default_rng(seed))
    return Interval(float(means.mean()), *_ends(drawn, confidence), over="tasks")


def paired_bootstrap(
    a_by_task: Mapping[str, float], b_by_task: Mapping[str, float], *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Return the mean of a - b over the same tasks of one run with its bootstrap interval over tasks.

    Both methods are resampled together, so what is hard about a task cancels; 0 outside the interval means that the
    difference is not explained by the choice of tasks. It may still be that of this one training.

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
    values = list(paired_differences(a_by_task, b_by_task).values())
    return bootstrap_mean(values, resamples=resamples, confidence=confidence, seed=seed)


def paired_differences(a_by_task: Mapping[str, float], b_by_task: Mapping[str, float]) -> dict[str, float]:
    """Return task_id -> a - b: one run of a paired comparison.

    Raises:
        DataError: the two methods were not evaluated on the same tasks.
    """
    if a_by_task.keys() != b_by_task.keys():
        only = sorted(a_by_task.keys() ^ b_by_task.keys())
        raise DataError(f"a paired comparison needs the same tasks; {len(only)} have one value only, as {only[0]}")
    return {task_id: a_by_task[task_id] - b_by_task[task_id] for task_id in a_by_task}


def interval_over_runs(
    runs: Sequence[Mapping[str, float]], *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Return the mean over runs with the interval to publish: over tasks and runs; of one run, over tasks.

    It holds both `hierarchical_bootstrap` and `t_interval`, each of which can be too narrow alone. The bootstrap sees
    too little of how runs differ when there are few. Student's t sees it, but a few means that are close by luck
    promise more than their tasks can tell. Holding both, it contains the true mean at least as often as Student's t,
    which keeps its confidence where the means of runs are about normally distributed.

    Args:
        runs: see `hierarchical_bootstrap`; `paired_differences` makes them of two methods.
        resamples: see `hierarchical_bootstrap`.
        confidence: see `hierarchical_bootstrap`.
        seed: see `hierarchical_bootstrap`.

    Raises:
        DataError: see `hierarchical_bootstrap`.
        SettingsError: see `hierarchical_bootstrap`.
    """
    drawn = hierarchical_bootstrap(runs, resamples=resamples, confidence=confidence, seed=seed)
    if len(runs) == 1:
        return drawn
    student = t_interval([_sorted_values(run).mean() for run in runs], confidence=confidence)
    return Interval(drawn.mean, min(drawn.low, student.low), max(drawn.high, student.high), drawn.over)


def hierarchical_bootstrap(
    runs: Sequence[Mapping[str, float]], *, resamples: int, confidence: float, seed: int
) -> Interval:
    """Return the mean over runs of their means over tasks, with its percentile bootstrap interval over tasks and runs.

    Runs are drawn with replacement, as many as there are, and then tasks within each drawn run. Runs with the same
    tasks, as those of a fixed benchmark, share them in a draw too: what is hard about a task does not average out over
    runs. One run gives `bootstrap_mean`.

    With few runs that differ, the interval is too narrow. Three runs have only ten different draws, no end lies beyond
    what the outermost run's tasks give, and of the variance between k runs (k - 1) / k is seen. Where three runs
    differ twice as much as their tasks explain, a 95 % interval holds the true mean in 84 of 100 simulated cases.
    `interval_over_runs` mends that.

    Source: Davison and Hinkley, Bootstrap Methods and their Application, 1997, section 3.8; for tasks that runs share
    Owen, The pigeonhole bootstrap, Annals of Applied Statistics 1, 2007.

    Args:
        runs: for every run, task_id -> value, averaged over seeds. Equal ids in two runs mean the same task.
        resamples: draws of runs and of their tasks.
        confidence: share of the resampled means inside the interval, for example 0.95.
        seed: of the draws; equal seeds give equal intervals, whatever the order of the runs and of their tasks.

    Raises:
        DataError: no runs, one without tasks, a value that is not a finite number, or runs that share only some tasks.
        SettingsError: see `bootstrap_mean`.
    """
    if len(runs) == 1:
        return bootstrap_mean(list(runs[0].values()), resamples=resamples, confidence=confidence, seed=seed)
    _check_settings(resamples, confidence)
    same_tasks = _have_same_tasks(runs)
    columns = sorted((_sorted_values(run) for run in runs), key=list)  # the order of runs must not matter either
    rng = np.random.default_rng(seed)
    chosen = rng.integers(0, len(runs), (resamples, len(runs)))  # (resamples, runs)
    if same_tasks:
        table = np.array(sorted([run[task] for task in sorted(run)] for run in runs))  # (runs, tasks)
        means = np.take_along_axis(_resampled_means(table, resamples, rng).T, chosen, axis=1)
    else:
        means = np.empty(chosen.shape)
        for number, values in enumerate(columns):
            here = chosen == number
            means[here] = _resampled_means(values, int(here.sum()), rng)
    mean = float(np.mean([values.mean() for values in columns]))
    return Interval(mean, *_ends(means.mean(axis=1), confidence), over="tasks and runs")


def t_interval(means: Sequence[float], *, confidence: float) -> Interval:
    """Return the mean of the means of two or more runs with its t-interval over runs.

    It takes each run as one value and is right for any number of runs whose means are about normally distributed.
    Where every run has tasks of its own, its mean varies with them, and the interval is over them as well.

    Args:
        means: one per run.
        confidence: in (0, 1), for example 0.95.

    Raises:
        DataError: fewer than two means, or one that is not a finite number.
        SettingsError: `confidence` is out of range.
    """
    _check_settings(1, confidence)
    values = np.sort(np.asarray(means, dtype=np.float64))  # (runs,)
    if len(values) < 2 or not np.isfinite(values).all():
        raise DataError(f"means {list(means)}: two or more finite numbers, one per run, are needed")
    mean = float(values.mean())
    half = student_quantile(confidence, len(values) - 1) * float(values.std(ddof=1)) / math.sqrt(len(values))
    return Interval(mean, mean - half, mean + half, over="runs")


def _check_settings(resamples: int, confidence: float) -> None:
    """Check ranges."""
    if resamples < 1 or not 0 < confidence < 1:
        raise SettingsError(f"bootstrap={resamples}, confidence={confidence}; allowed are at least 1, and 0 to 1")


def _have_same_tasks(runs: Sequence[Mapping[str, float]]) -> bool:
    """Say whether the runs have all tasks in common, or none; check that it is one of the two, and all values."""
    if not runs:
        raise DataError("no runs: there is nothing to take a mean of; one or more are needed")
    for number, run in enumerate(runs, start=1):
        if not run or not np.isfinite(list(run.values())).all():
            raise DataError(f"run {number} of {len(runs)}: {len(run)} values; one or more finite numbers are needed")
    same = all(run.keys() == runs[0].keys() for run in runs)
    tasks = set().union(*runs)
    if not same and len(tasks) != sum(map(len, runs)):
        raise DataError(
            f"{len(runs)} runs with {', '.join(str(len(run)) for run in runs)} tasks, {len(tasks)} of them different; "
            "runs need all tasks in common or none: compare runs on the same panels, or each on its own"
        )
    return same


def _sorted_values(run: Mapping[str, float]) -> NDArray[np.float64]:
    """Return (tasks,) the values of a run; no interval may depend on the order of its tasks."""
    return np.sort(np.array(list(run.values()), dtype=np.float64))


def _resampled_means(values: NDArray[np.float64], resamples: int, rng: np.random.Generator) -> NDArray[np.float64]:
    """Return (..., resamples) means of tasks drawn with replacement; values are (..., tasks)."""
    tasks = values.shape[-1]
    means: NDArray[np.float64] = values[..., rng.integers(0, tasks, (resamples, tasks))].mean(axis=-1)
    return means


def _ends(means: NDArray[np.float64], confidence: float) -> tuple[float, float]:
    """Return the ends between which the middle share of the resampled means lies."""
    tail = (1 - confidence) / 2
    low, high = np.quantile(means, [tail, 1 - tail])
    return float(low), float(high)
