"""Everything that the page says about one environment, computed; the templates only lay it out."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from markupsafe import Markup

from qlass.records import ExplorationTree
from qlass.report import charts, plots
from qlass.report.compare import Comparison, compare
from qlass.report.headline import failed_tasks, failure, headline, split_name
from qlass.report.inputs import EnvInputs, ReportSettings
from qlass.report.load import TableRow, absence, available, read_episodes, read_metrics, read_numbers, read_panel
from qlass.report.paper import ORACLE, REPORTED, in_order, method_name
from qlass.report.results import (
    Groups,
    Result,
    category_means,
    failures,
    group,
    headline_split,
    methods_of,
    splits_of,
    summarise_env,
    unequal_tasks,
)
from qlass.report.tree_picture import tree_picture
from qlass.report.trees import Segment, TreeStatistics, read_q, read_trees, view_tree


@dataclass(frozen=True, slots=True)
class MethodLine:
    """One row of the result table.

    Attributes:
        method: method id.
        name: name to print.
        css: class that colours it.
        note: a few words about its settings.
        cells: results by split; empty for a method that was not run here.
        reported: the paper's numbers by split.
        oracle: the paper's number uses the true reward.
    """

    method: str
    name: str
    css: str
    note: str
    cells: Mapping[str, Result]
    reported: Mapping[str, float]
    oracle: bool


@dataclass(frozen=True, slots=True)
class Picture:
    """A chart with its numbers, or the sentence that says why it is missing."""

    title: str
    svg: Markup | None
    rows: Sequence[TableRow] = ()
    missing: str = ""


@dataclass(frozen=True, slots=True)
class TreeSection:
    """Exploration: statistics, the chart of branches, and one tree."""

    statistics: TreeStatistics
    lengths: Markup | None
    tree: ExplorationTree | None
    segments: tuple[Segment, ...]
    picture: Markup | None
    labels_missing: str


@dataclass(frozen=True, slots=True)
class EnvPage:
    """One environment on the page; see the templates for where each part stands."""

    anchor: str
    label: str
    name: str
    headline: str
    second: str
    groups: Groups
    results: Sequence[Result]
    splits: Sequence[str]
    methods: Sequence[str]
    lines: Sequence[MethodLine]
    paper_splits: Sequence[str]
    graded: bool
    forests: Sequence[tuple[str, Markup]]
    categories: Sequence[tuple[str, Sequence[tuple[str, int, Mapping[str, float]]]]]
    budget: Markup | None
    main_split: str
    main_results: Sequence[Result]
    comparison: Comparison | None
    exploration: TreeSection | None
    pictures: Mapping[str, Picture]
    training: Sequence[tuple[str, Picture]]
    sibling_accuracy: float | None
    metrics: Mapping[str, Mapping[str, float | int | str | bool]]
    panels: Sequence[tuple[str, int, str]]
    missing_episodes: Sequence[str]
    missing_trees: str
    unequal: Sequence[str]
    failures: Sequence[str]
    published: bool


def env_page(env: EnvInputs, settings: ReportSettings) -> EnvPage:
    """Read the files of one environment and compute its part of the page.

    Raises:
        DataError: a file is corrupt.
    """
    table, missing_episodes = read_episodes(env)
    groups = group(table)
    results = summarise_env(env.name, groups, settings)
    anchor = re.sub(r"[^a-z0-9]+", "-", env.name.lower()).strip("-") or "env"
    splits = splits_of(groups)
    main = headline_split(groups) if groups else ""
    chosen = [result for result in results if result.split == main]
    first, second = headline(env.label, results, groups, settings)
    failed = failures(groups)
    pictures = _pictures(env)
    exploration = _exploration(env, anchor)
    return EnvPage(
        anchor=anchor,
        label=env.label,
        name=env.name,
        headline=first,
        second=" ".join(sentence for sentence in (second, failed_tasks(failed)) if sentence),
        groups=groups,
        results=results,
        splits=splits,
        methods=methods_of(groups),
        lines=_lines(env, results),
        paper_splits=[split for name, split in dict.fromkeys(key[:2] for key in REPORTED) if name == env.name],
        graded=any(abs(result.reward.mean - result.success.mean) > 1e-9 for result in results),
        forests=[(split_name(s), charts.forest([r for r in results if r.split == s], split_name(s))) for s in splits],
        categories=[
            (split, category_means(results, split, env.categories))
            for split in sorted(splits, key=lambda s: s != main)
        ],
        budget=charts.budget(chosen) if chosen else None,
        main_split=main,
        main_results=chosen,
        comparison=compare(groups),
        exploration=exploration,
        pictures=pictures,
        training=_training(env),
        sibling_accuracy=_sibling_accuracy(pictures["siblings"].rows),
        metrics={stage: dict(read_metrics(path)) for stage, path in env.metrics.items() if available(path)},
        panels=[(split, *read_panel(path)) for split, path in env.panels.items() if available(path)],
        missing_episodes=missing_episodes,
        missing_trees="" if exploration else absence("Exploration trees", env.trees),
        unequal=unequal_tasks(groups),
        failures=[failure(one) for one in failed],
        published=env.published,
    )


def _lines(env: EnvInputs, results: Sequence[Result]) -> list[MethodLine]:
    """Return a row for every method that was run or that the paper reports for this environment."""
    reported_here = {(split, method): value for (name, split, method), value in REPORTED.items() if name == env.name}
    methods = [*(result.method for result in results), *(method for _, method in reported_here)]
    return [
        MethodLine(
            method=method,
            name=method_name(method),
            css=charts.method_class(method),
            note=env.method_notes.get(method, ""),
            cells={result.split: result for result in results if result.method == method},
            reported={split: value for (split, name), value in reported_here.items() if name == method},
            oracle=method == ORACLE,
        )
        for method in in_order(methods)
    ]


def _pictures(env: EnvInputs) -> dict[str, Picture]:
    """Draw the charts whose numbers are CSV files."""
    bins, target = ("bin_low", "bin_high", "n"), ("mean_predicted", "mean_target")
    pairs, accuracy = ("depth", "n_pairs", "n_groups"), ("pairwise_accuracy", "rank_correlation")
    return {
        "calibration": _picture("QNet calibration", env.calibration, bins, target, plots.calibration),
        "siblings": _picture("Sibling ranking", env.siblings, pairs, accuracy, plots.siblings),
    }


def _training(env: EnvInputs) -> list[tuple[str, Picture]]:
    """Draw the loss curve of every policy that was trained, and of the QNet, each with what the loss is."""
    losses = [(method_name(name), "loss on assistant tokens", path) for name, path in env.policy_loss.items()]
    found = []
    for name, words, path in [*losses, ("QNet", env.qnet_loss_words, env.qnet_loss)]:
        title = f"{name} loss"
        picture = _picture(title, path, ("step", "loss"), (), partial(_curve, title))
        if picture.rows or (picture.svg is None and not available(path)):
            found.append((f"{name}: {words}; the thick line is a running mean.", picture))
    return found


def _curve(title: str, rows: Sequence[TableRow]) -> Markup:
    return plots.loss_curve(rows, title)


def _picture(
    title: str,
    path: Path | None,
    columns: Sequence[str],
    optional: Sequence[str],
    draw: Callable[[Sequence[TableRow]], Markup],
) -> Picture:
    """Draw one chart, or say why it is missing."""
    if path is None or not available(path):
        return Picture(title, None, missing=absence(title, path))
    rows = read_numbers(path, columns, optional=optional)
    if not rows:
        return Picture(title, None, missing=f"{title}: the file holds no rows.")
    return Picture(title, draw(rows), rows)


def _sibling_accuracy(rows: Sequence[TableRow]) -> float | None:
    """Return the share of all pairs that the QNet orders rightly."""
    counts = [(row["n_pairs"], row["pairwise_accuracy"]) for row in rows]
    known = [(pairs, accuracy) for pairs, accuracy in counts if pairs and accuracy is not None]
    total = sum(pairs for pairs, _ in known)
    return sum(pairs * accuracy for pairs, accuracy in known) / total if total else None


def _exploration(env: EnvInputs, anchor: str) -> TreeSection | None:
    """Read the trees and draw the most informative one; None where there are none."""
    if env.trees is None or not available(env.trees):
        return None
    statistics, tree = read_trees(env.trees)
    lengths = plots.branch_lengths(statistics.lengths) if statistics.lengths else None
    labelled = env.labels is not None and available(env.labels)
    labels_missing = "" if labelled else absence("Q-values", env.labels)
    if tree is None or not tree.nodes:
        return TreeSection(statistics, lengths, None, (), None, labels_missing)
    q_values = read_q(env.labels, tree.task_id) if labelled and env.labels is not None else {}
    segments = view_tree(tree, q_values)
    picture = tree_picture(
        segments, f"{anchor}-node", f"Exploration tree of {tree.task_id}: {len(tree.nodes)} actions"
    )
    return TreeSection(statistics, lengths, tree, segments, picture, labels_missing)
