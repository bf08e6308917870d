"""Pictures of the parts: training curves, QNet calibration and ranking, and what exploration found."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence

from markupsafe import Markup

from qlass.report.load import TableRow
from qlass.report.svg import Scale, frame, line, marker, path, picture, show, tag, text

_WIDTH, _HEIGHT = 480, 310
_LEFT, _RIGHT, _TOP, _BOTTOM = 48, _WIDTH - 14, 34, _HEIGHT - 46
_POINTS = 240
"""Points of a curve at most; longer series are averaged, because a screen has no more pixels."""


def loss_curve(rows: Sequence[TableRow], label: str) -> Markup:
    """Draw a loss over optimizer steps: as logged (thin) and its running mean (thick)."""
    points = thin([(_value(row, "step"), _value(row, "loss")) for row in rows])
    steps, losses = [step for step, _ in points], [loss for _, loss in points]
    x = Scale(min(steps), max(*steps, min(steps) + 1), _LEFT, _RIGHT)
    y = _loss_scale(losses)
    smooth = _running_mean(losses, max(len(losses) // 20, 1))
    parts = [
        frame(x, y, "optimizer step", "loss" + (" (log scale)" if y.log else "")),
        path([(x(step), y(loss)) for step, loss in points], "curve thin"),
        path([(x(step), y(loss)) for (step, _), loss in zip(points, smooth, strict=True)], "curve"),
    ]
    return picture(_WIDTH, _HEIGHT, f"{label}: from {losses[0]:.4g} to {losses[-1]:.4g}", *parts, class_="chart plot")


def _loss_scale(losses: Sequence[float]) -> Scale:
    """Return the axis of a loss: from zero, or logarithmic where it falls more than twentyfold."""
    low, high = min(losses), max(losses)
    if low > 0 and high / low > 20:
        return Scale(low / 1.2, high * 1.2, _BOTTOM, _TOP, log=True)
    return Scale(min(0.0, low), high * 1.05 if high > 0 else 1.0, _BOTTOM, _TOP)


def thin(points: Sequence[tuple[float, float]]) -> list[tuple[float, float]]:
    """Average neighbouring points so that at most 240 remain."""
    size = math.ceil(len(points) / _POINTS)
    chunks = [points[start : start + size] for start in range(0, len(points), size)]
    return [(sum(x for x, _ in c) / len(c), sum(y for _, y in c) / len(c)) for c in chunks]


def _running_mean(values: Sequence[float], half: int) -> list[float]:
    """Average each value with up to `half` neighbours on both sides."""
    windows = [values[max(i - half, 0) : i + half + 1] for i in range(len(values))]
    return [sum(window) / len(window) for window in windows]


def calibration(rows: Sequence[TableRow]) -> Markup:
    """Draw mean target against mean prediction by bin, with the diagonal and a histogram of the predictions."""
    filled = [row for row in rows if row["n"] and row["mean_predicted"] is not None and row["mean_target"] is not None]
    most = max((_value(row, "n") for row in filled), default=1.0)
    ends = [_value(row, name) for row in filled for name in ("bin_low", "bin_high", "mean_predicted", "mean_target")]
    low, high = min([0.0, *ends]), max([1.0, *ends])
    x, y = Scale(low, high, _LEFT, _RIGHT), Scale(low, high, _BOTTOM, _TOP)
    parts = [frame(x, y, "predicted Q (mean of the bin)", "target Q (mean of the bin)")]
    for row in filled:
        left, right = x(_value(row, "bin_low")), x(_value(row, "bin_high"))
        height = 0.22 * (_BOTTOM - _TOP) * _value(row, "n") / most
        tip = tag("title", f"{_value(row, 'n'):,.0f} predictions between {row['bin_low']:g} and {row['bin_high']:g}")
        parts.append(
            tag(
                "rect",
                tip,
                x=left + 1,
                y=_BOTTOM - height,
                width=max(right - left - 2, 1),
                height=height,
                class_="hist",
            )
        )
    parts.append(line(x(low), y(low), x(high), y(high), "reference"))
    points = [(x(_value(row, "mean_predicted")), y(_value(row, "mean_target"))) for row in filled]
    parts.append(path(points, "curve"))
    for row, (column, height) in zip(filled, points, strict=True):
        tip_text = (
            f"predicted {row['mean_predicted']:.3f}, target {row['mean_target']:.3f}, n = {_value(row, 'n'):,.0f}"
        )
        parts.append(
            marker("circle", column, height, 3 + 4 * math.sqrt(_value(row, "n") / most), "mark accent", tip_text)
        )
    return picture(
        _WIDTH, _HEIGHT, "QNet calibration: target against prediction, with the diagonal", *parts, class_="chart plot"
    )


def siblings(rows: Sequence[TableRow]) -> Markup:
    """Draw pairwise accuracy among siblings by depth, with chance and the number of pairs."""
    filled = [row for row in rows if row["n_pairs"] and row["pairwise_accuracy"] is not None]
    depths = [_value(row, "depth") for row in filled]
    first, last = min(depths, default=1.0), max(depths, default=1.0)
    x, y = Scale(first - 0.6, last + 0.6, _LEFT, _RIGHT), Scale(0, 1, _BOTTOM, _TOP)
    shown = depths if len(depths) <= 12 else depths[:: math.ceil(len(depths) / 12)]
    parts = [frame(x, y, "depth (actions from the root)", "pairs ordered rightly, share", x_ticks=shown)]
    parts.append(line(x.start, y(0.5), x.end, y(0.5), "reference"))
    parts.append(text(x.end, y(0.5) + 15, "chance", "tick halo", "end"))
    points = [(x(_value(row, "depth")), y(_value(row, "pairwise_accuracy"))) for row in filled]
    parts.append(path(points, "curve"))
    for row, (column, height) in zip(filled, points, strict=True):
        tip = f"depth {row['depth']:g}: {row['pairwise_accuracy']:.3f} of {_value(row, 'n_pairs'):,.0f} pairs"
        parts.append(marker("circle", column, height, 5, "mark accent", tip))
        if row["depth"] in shown:
            parts.append(text(column, height - 11, f"n={show(_value(row, 'n_pairs'))}", "tick halo"))
    return picture(
        _WIDTH, _HEIGHT, "Sibling ranking: pairwise accuracy by depth against chance", *parts, class_="chart plot"
    )


def branch_lengths(counts: Mapping[int, tuple[int, int]]) -> Markup:
    """Draw how long branches are: (rewarded, unrewarded) branches by number of actions, stacked."""
    longest = max(counts)
    most = max(sum(pair) for pair in counts.values())
    x, y = Scale(0.4, longest + 0.6, _LEFT, _RIGHT), Scale(0, most * 1.08, _BOTTOM, _TOP)
    step = max(math.ceil(longest / 10), 1)
    ticks = [float(value) for value in range(step, longest + 1, step)]
    parts = [frame(x, y, "actions in the branch", "branches", x_ticks=ticks)]
    for length, (rewarded, unrewarded) in sorted(counts.items()):
        left, width = x(length - 0.5) + 0.5, max(x(length + 0.5) - x(length - 0.5) - 1, 1)
        base = y(0)
        for count, css, word in ((rewarded, "bar good", "with reward"), (unrewarded, "bar bad", "without reward")):
            height = y(0) - y(count)
            tip = tag("title", f"{length} actions, {word}: {count:,} branches")
            parts.append(tag("rect", tip, x=left, y=base - height, width=width, height=height, class_=css))
            base -= height
    return picture(_WIDTH, _HEIGHT, "Length of the explored branches by outcome", *parts, class_="chart plot")


def _value(row: TableRow, name: str) -> float:
    """Return a cell that the caller has checked to hold a number."""
    value = row[name]
    if value is None:
        raise TypeError(f"{name} is empty")
    return value
