"""How good a QNet is on tasks it has not seen. Pure functions of arrays; results are plain numbers and rows."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

Floats = NDArray[np.float64]
Row = dict[str, float | int | None]


@dataclass(frozen=True, slots=True)
class ScoredNode:
    """A node with its label and the QNet's value.

    Attributes:
        task_id: of the tree.
        parent_id: nodes of one task with equal parents are siblings.
        depth: actions from the root.
        target: the label.
        predicted: the QNet's value.
        valid: the environment executed the action.
    """

    task_id: str
    parent_id: int
    depth: int
    target: float
    predicted: float
    valid: bool = True


@dataclass(frozen=True, slots=True)
class _Group:
    """Siblings, compared.

    Attributes:
        task_id: of the tree.
        depth: of the siblings.
        pairs: pairs with different targets.
        right: of those, how many the QNet orders as the targets do; a tie counts one half.
        correlation: Spearman's, None where all targets are equal.
        mixed: pairs of a valid and an invalid action.
        refused: of those, in how many the QNet gives the invalid one the lower value.
    """

    task_id: str
    depth: int
    pairs: int
    right: float
    correlation: float | None
    mixed: int
    refused: float


def qnet_metrics(
    nodes: Sequence[ScoredNode], train_mean: float, *, resamples: int, confidence: float, seed: int
) -> dict[str, float | int | None]:
    """Summarise.

    Args:
        nodes: all labelled nodes of the validation tasks.
        train_mean: mean target of the training nodes: the baseline predicts it everywhere.
        resamples: bootstrap resamples of the tasks.
        confidence: of the interval, in (0, 1).
        seed: of the resampling.

    Returns:
        mse and baseline_mse; pairwise_accuracy of siblings with different targets (0.5 is chance), its interval and
        pairs; rank_correlation, the mean over groups of siblings, and groups; invalid_accuracy and invalid_pairs: of a
        valid and an invalid sibling, how often the invalid one has the lower value. That asks what can be read, while
        most other pairs differ by luck: the object lies in one of two places not looked into. None where there is
        nothing to compare.
    """
    target = np.array([node.target for node in nodes])
    predicted = np.array([node.predicted for node in nodes])
    groups = _groups(nodes)
    low, high = _interval(groups, resamples, confidence, seed)
    summary = _summary(groups)
    mixed = sum(group.mixed for group in groups)
    return {
        "validation_tasks": len({node.task_id for node in nodes}),
        "validation_nodes": len(nodes),
        "mse": float(np.mean((predicted - target) ** 2)),
        "baseline_mse": float(np.mean((train_mean - target) ** 2)),
        "pairwise_accuracy": summary["pairwise_accuracy"],
        "pairwise_low": low,
        "pairwise_high": high,
        "pairwise_pairs": summary["n_pairs"],
        "rank_correlation": summary["rank_correlation"],
        "rank_groups": summary["n_groups"],
        "invalid_accuracy": sum(group.refused for group in groups) / mixed if mixed else None,
        "invalid_pairs": mixed,
    }


def siblings_table(nodes: Sequence[ScoredNode]) -> list[Row]:
    """Return, per depth, how well siblings are ordered: the columns of siblings.csv."""
    by_depth: dict[int, list[_Group]] = defaultdict(list)
    for group in _groups(nodes):
        by_depth[group.depth].append(group)
    return [{"depth": depth, **_summary(by_depth[depth])} for depth in sorted(by_depth)]


def calibration_table(nodes: Sequence[ScoredNode], bins: int = 10) -> list[Row]:
    """Return mean prediction and mean target per bin of the prediction over [0, 1]: the columns of calibration.csv.

    Predictions outside fall into the first or the last bin; empty bins have None as means.
    """
    target = np.array([node.target for node in nodes])
    predicted = np.array([node.predicted for node in nodes])
    which = np.clip((predicted * bins).astype(int), 0, bins - 1)
    table: list[Row] = []
    for number in range(bins):
        inside = which == number
        count = int(inside.sum())
        table.append(
            {
                "bin_low": number / bins,
                "bin_high": (number + 1) / bins,
                "n": count,
                "mean_predicted": float(predicted[inside].mean()) if count else None,
                "mean_target": float(target[inside].mean()) if count else None,
            }
        )
    return table


def spearman(left: Floats, right: Floats) -> float:
    """Return the rank correlation in [-1, 1], ties sharing their mean rank; 0 where one side is constant."""
    left, right = _ranks(left), _ranks(right)
    left, right = left - left.mean(), right - right.mean()
    scale = float(np.sqrt((left**2).sum() * (right**2).sum()))
    return float((left * right).sum() / scale) if scale else 0.0


def _ranks(values: Floats) -> Floats:
    return np.array(
        [(values < value).sum() + 0.5 * ((values == value).sum() - 1) for value in values], dtype=np.float64
    )


def _groups(nodes: Sequence[ScoredNode]) -> list[_Group]:
    """Compare siblings; groups of one have nothing to compare."""
    families: dict[tuple[str, int], list[ScoredNode]] = defaultdict(list)
    for node in nodes:
        families[node.task_id, node.parent_id].append(node)
    return [_compare(family) for family in families.values() if len(family) > 1]


def _compare(family: Sequence[ScoredNode]) -> _Group:
    target = np.array([node.target for node in family])
    predicted = np.array([node.predicted for node in family])
    first, second = np.triu_indices(len(family), k=1)
    wanted, found = np.sign(target[first] - target[second]), np.sign(predicted[first] - predicted[second])
    differ = wanted != 0
    right = float((wanted == found)[differ].sum() + 0.5 * (found == 0)[differ].sum())
    correlation = spearman(target, predicted) if differ.any() else None
    valid = np.array([node.valid for node in family], dtype=int)
    mixed = valid[first] != valid[second]
    refused = float((np.sign(valid[first] - valid[second]) == found)[mixed].sum() + 0.5 * (found == 0)[mixed].sum())
    pairs = int(differ.sum())
    return _Group(family[0].task_id, family[0].depth, pairs, right, correlation, int(mixed.sum()), refused)


def _summary(groups: Sequence[_Group]) -> Row:
    pairs = sum(group.pairs for group in groups)
    correlations = [group.correlation for group in groups if group.correlation is not None]
    return {
        "n_pairs": pairs,
        "pairwise_accuracy": sum(group.right for group in groups) / pairs if pairs else None,
        "n_groups": len(correlations),
        "rank_correlation": sum(correlations) / len(correlations) if correlations else None,
    }


def _interval(
    groups: Sequence[_Group], resamples: int, confidence: float, seed: int
) -> tuple[float | None, float | None]:
    """Bootstrap the pairwise accuracy over tasks: pairs of one tree are not independent."""
    by_task: dict[str, list[float]] = defaultdict(lambda: [0.0, 0.0])
    for group in groups:
        by_task[group.task_id][0] += group.right
        by_task[group.task_id][1] += group.pairs
    counts = np.array([value for value in by_task.values() if value[1]])  # (tasks, 2)
    if not len(counts):
        return None, None
    drawn = np.random.default_rng(seed).integers(0, len(counts), (resamples, len(counts)))
    sums = counts[drawn].sum(axis=1)  # (resamples, 2)
    tail = (1.0 - confidence) / 2
    low, high = np.quantile(sums[:, 0] / sums[:, 1], [tail, 1.0 - tail])
    return float(low), float(high)
