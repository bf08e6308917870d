"""From episodes to the rows of every table: means, intervals, paired differences and costs."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from qlass.evaluation import Summary, bootstrap_mean, mean_by_task, paired_bootstrap, summarise
from qlass.evaluation.bootstrap import Interval
from qlass.evaluation.metrics import PERCENT, outcome, success
from qlass.records import Episode
from qlass.report.inputs import ReportSettings
from qlass.report.load import EpisodeTable
from qlass.report.paper import in_order
from qlass.seeds import derive_seed

POOLED = "pooled"
"""The pseudo split of all tasks of the test splits."""

OURS = "qlass"

BASELINE = "sft"
"""Paired differences are against this method."""

Groups: TypeAlias = dict[tuple[str, str], tuple[Episode, ...]]
"""Episodes by (split, method), the pooled split included, in table order."""


@dataclass(frozen=True, slots=True)
class Result:
    """One method on one split.

    Attributes:
        env: environment name.
        split: test_seen, test_unseen or pooled.
        method: method id.
        summary: means, counts and costs.
        reward: mean outcome reward x 100.
        success: success rate x 100.
        tokens: generated tokens per episode.
        versus_sft: paired difference in reward x 100 on the tasks both have; None for SFT itself and without SFT.
    """

    env: str
    split: str
    method: str
    summary: Summary
    reward: Interval
    success: Interval
    tokens: Interval
    versus_sft: Interval | None

    @property
    def tokens_per_success(self) -> float | None:
        """Generated tokens per solved task; None where nothing was solved."""
        return PERCENT * self.tokens.mean / self.success.mean if self.success.mean else None


def group(table: EpisodeTable) -> Groups:
    """Arrange episodes by (split, method) and add the pooled split for methods that have every test split."""
    groups = {(split, method): episodes for (method, split), episodes in table.items()}
    tests = sorted({split for split, _ in groups if split.startswith("test_")})
    methods = in_order(method for method, _ in table)
    for method in methods:
        parts = [groups[split, method] for split in tests if (split, method) in groups]
        if len(parts) == len(tests) > 1:
            groups[POOLED, method] = tuple(episode for part in parts for episode in part)
    return dict(sorted(groups.items(), key=lambda item: (item[0][0] == POOLED, item[0][0], methods.index(item[0][1]))))


def splits_of(groups: Iterable[tuple[str, str]]) -> list[str]:
    """Return the splits in table order."""
    return list(dict.fromkeys(split for split, _ in groups))


def methods_of(groups: Iterable[tuple[str, str]]) -> list[str]:
    """Return the methods in table order."""
    return in_order(method for _, method in groups)


def headline_split(groups: Iterable[tuple[str, str]]) -> str:
    """Return the split that single numbers are about: the last one (pooled) on which QLASS and SFT can be compared."""
    keys = list(groups)
    splits = splits_of(keys)
    both = [split for split in splits if {(split, OURS), (split, BASELINE)} <= set(keys)]
    return (both or splits)[-1]


def summarise_env(env: str, groups: Groups, settings: ReportSettings) -> list[Result]:
    """Return one Result per (split, method), in table order."""
    return [_result(env, split, method, groups, settings) for split, method in groups]


def _result(env: str, split: str, method: str, groups: Groups, settings: ReportSettings) -> Result:
    """Summarise one method on one split."""
    episodes = groups[split, method]

    def interval(value: Callable[[Episode], float], scale: float) -> Interval:
        values = [scale * mean for mean in mean_by_task(episodes, value).values()]  # (tasks,)
        seed = derive_seed(settings.seed, "report", env, split, method)
        return bootstrap_mean(values, resamples=settings.bootstrap, confidence=settings.confidence, seed=seed)

    return Result(
        env=env,
        split=split,
        method=method,
        summary=summarise(episodes),
        reward=interval(outcome, PERCENT),
        success=interval(success, PERCENT),
        tokens=interval(lambda episode: float(episode.cost.generated_tokens), 1.0),
        versus_sft=None if method == BASELINE else difference(env, split, method, BASELINE, groups, settings),
    )


def difference(
    env: str, split: str, method: str, other: str, groups: Groups, settings: ReportSettings
) -> Interval | None:
    """Return the paired difference in reward x 100, method minus other, or None where they share no task."""
    if (split, method) not in groups or (split, other) not in groups:
        return None
    ours, theirs = mean_by_task(groups[split, method]), mean_by_task(groups[split, other])
    common = sorted(ours.keys() & theirs.keys())
    if not common:
        return None
    return paired_bootstrap(
        {task: PERCENT * ours[task] for task in common},
        {task: PERCENT * theirs[task] for task in common},
        resamples=settings.bootstrap,
        confidence=settings.confidence,
        seed=derive_seed(settings.seed, "report", env, split, method, other),
    )


def category_means(
    results: Iterable[Result], split: str, categories: Sequence[str]
) -> list[tuple[str, int, dict[str, float]]]:
    """Return (category, number of tasks, mean reward x 100 by method) rows for one split.

    Categories without a task are left out; those not in `categories` follow in alphabetical order.
    """
    tables = {result.method: result.summary["by_category"] for result in results if result.split == split}
    found = {category for table in tables.values() for category in table}
    ordered = [name for name in categories if name in found] + sorted(found.difference(categories))
    rows = []
    for category in ordered:
        cells = {method: table[category] for method, table in tables.items() if category in table}
        n_tasks = max(cell["n_tasks"] for cell in cells.values())
        rows.append((category, n_tasks, {method: cell["mean_reward"] for method, cell in cells.items()}))
    return rows


def unequal_tasks(groups: Groups) -> list[str]:
    """Return the splits on which not all methods were evaluated on the same tasks."""
    sets: dict[str, set[frozenset[str]]] = {}
    for (split, _), episodes in groups.items():
        sets.setdefault(split, set()).add(frozenset(episode.task_id for episode in episodes))
    return [split for split, kinds in sets.items() if len(kinds) > 1 and split != POOLED]


@dataclass(frozen=True, slots=True)
class Failure:
    """A task that some methods could not play to its end.

    Attributes:
        split: of the task.
        task_id: the task.
        methods: whose episodes failed, in table order.
        reason: the first one.
    """

    split: str
    task_id: str
    methods: tuple[str, ...]
    reason: str


def failures(groups: Groups) -> list[Failure]:
    """Return every task of which an episode could not be finished, in the order of splits and tasks."""
    found: dict[tuple[str, str], dict[str, str]] = {}
    for (split, method), episodes in groups.items():
        for episode in episodes:
            if episode.error and split != POOLED:
                found.setdefault((split, episode.task_id), {}).setdefault(method, episode.error)
    return [
        Failure(split, task_id, tuple(reasons), next(iter(reasons.values())))
        for (split, task_id), reasons in sorted(found.items())
    ]
