"""Pictures of the comparison: intervals by method, and mean reward against generated tokens."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TypeAlias

from markupsafe import Markup

from qlass.report.paper import REPORTED, family, method_name
from qlass.report.results import Result
from qlass.report.svg import Scale, frame, line, marker, picture, text

SHAPES = {"qlass": "circle", "best_of_n": "square", "sft": "triangle", "base": "diamond"}
_ROW = 38
_LABEL_HEIGHT = 16
_LETTER = 6.9
"""Width of a letter of a name, in pixels, on average."""
_SHIFTS = (-4, 20, 8, -20, 36, -36, 52)
"""Places of a name relative to its point, in pixels downwards; the first free one is taken."""

Box: TypeAlias = tuple[float, float, float, float]
"""Left, top, right, bottom."""


def method_class(method: str) -> str:
    """Return the CSS class that colours a method; variants such as `qlass_adaptive` look like their family."""
    return f"m-{family(method)}"


def forest(results: Sequence[Result], title: str) -> Markup:
    """Draw one row per method of one split: mean reward with its interval, and the paper's number as a hollow mark."""
    width, top = 372, 18
    bottom = top + _ROW * len(results)
    # The names end before the axis begins: a low mean must not stand in its own name.
    names = max(len(method_name(result.method)) for result in results)
    x = Scale(0, 100, max(92.0, _LETTER * names + 12), width - 58)
    parts = [line(x(value), top - 6, x(value), bottom, "grid") for value in x.ticks(4)]
    parts += [text(x(value), bottom + 16, f"{value:g}") for value in x.ticks(4)]
    for index, result in enumerate(results):
        y = top + _ROW * (index + 0.5)
        parts.append(_forest_row(result, x, y, width))
    label = f"{title}, intervals over tasks: " + "; ".join(
        f"{method_name(r.method)} {r.reward.mean:.1f} ({r.reward.low:.1f} to {r.reward.high:.1f})" for r in results
    )
    parts.append(text((x.start + x.end) / 2, bottom + 34, "mean outcome reward × 100", "label"))
    return picture(width, bottom + 42, label, *parts)


def _forest_row(result: Result, x: Scale, y: float, width: int) -> Markup:
    """Draw one method."""
    mean, low, high = result.reward.mean, result.reward.low, result.reward.high
    css, reported = method_class(result.method), REPORTED.get((result.env, result.split, result.method))
    name = method_name(result.method)
    title = f"{name}: {mean:.1f} ({low:.1f} to {high:.1f} over {result.reward.over})"
    parts = [
        text(0, y + 4, name, f"name {css}", "start"),
        line(x(low), y, x(high), y, f"whisker {css}"),
        line(x(low), y - 5, x(low), y + 5, f"whisker {css}"),
        line(x(high), y - 5, x(high), y + 5, f"whisker {css}"),
        marker(_shape(result.method), x(mean), y, 5.5, f"mark {css}", title),
        text(width, y + 4, f"{mean:.1f}", "value", "end"),
    ]
    if reported is not None:
        parts.append(marker("diamond", x(reported), y + 13, 4, "reported", f"{name} as reported: {reported:.1f}"))
    return Markup("").join(parts)


def budget(results: Sequence[Result]) -> Markup:
    """Draw mean reward x 100 against generated tokens per episode, both with intervals; one point per method."""
    width, height = 520, 340
    x = _token_scale(results, 46, width - 20)
    y = Scale(0, _top(max(result.reward.high for result in results)), height - 46, 34)
    names = "generated tokens per episode" + (" (log scale)" if x.log else ""), "mean outcome reward × 100"
    parts = [frame(x, y, *names)]
    parts += [_budget_mark(result, x, y) for result in results]
    parts.append(_budget_labels(results, x, y))
    label = "Mean reward against generated tokens: " + "; ".join(
        f"{method_name(r.method)} {r.reward.mean:.1f} at {r.tokens.mean:.0f} tokens" for r in results
    )
    return picture(width, height, label, *parts, class_="chart plot")


def _top(highest: float) -> float:
    """Return the end of the axis of rewards: 100, or less where all methods would lie in the lower half."""
    return 100.0 if highest > 50 else max(20.0, 10.0 * math.ceil(1.2 * highest / 10))


def _token_scale(results: Sequence[Result], start: float, end: float) -> Scale:
    """Return the axis of tokens: from zero, or logarithmic where the methods differ more than fivefold."""
    low = max(1.0, min(result.tokens.low for result in results))
    high = max(2.0, *(result.tokens.high for result in results))
    if high / low > 5:
        return Scale(low / 1.6, high * 1.6, start, end, log=True)
    return Scale(0, high * 1.15, start, end)


def _budget_mark(result: Result, x: Scale, y: Scale) -> Markup:
    """Draw the point of one method with its two intervals."""
    css, tokens, reward = method_class(result.method), result.tokens, result.reward
    title = f"{method_name(result.method)}: {reward.mean:.1f} at {tokens.mean:,.0f} tokens per episode"
    return Markup("").join(
        [
            line(x(tokens.mean), y(reward.low), x(tokens.mean), y(reward.high), f"whisker {css}"),
            line(x(tokens.low), y(reward.mean), x(tokens.high), y(reward.mean), f"whisker {css}"),
            marker(_shape(result.method), x(tokens.mean), y(reward.mean), 6, f"mark {css}", title),
        ]
    )


def _budget_labels(results: Sequence[Result], x: Scale, y: Scale) -> Markup:
    """Write the names beside the points, each at the first place where it covers neither a point nor a name."""
    points = [(x(result.tokens.mean), y(result.reward.mean)) for result in results]
    taken = [(column - 8, height - 8, column + 8, height + 8) for column, height in points]
    parts = []
    for result, (column, height) in sorted(zip(results, points, strict=True), key=lambda pair: pair[1]):
        name = method_name(result.method)
        boxes = [_label_box(name, column, height, shift, side) for shift in _SHIFTS for side in (1, -1)]
        inside = [box for box in boxes if box[0] > x.start and box[2] < x.end and box[3] < y.start]
        free = [box for box in inside if not any(_overlap(box, other) for other in taken)]
        box = (free or inside or boxes)[0]
        taken.append(box)
        anchor, edge = ("start", box[0]) if box[0] > column else ("end", box[2])
        parts.append(text(edge, box[3] - 4, name, f"name halo {method_class(result.method)}", anchor))
    return Markup("").join(parts)


def _label_box(name: str, column: float, height: float, shift: float, side: int) -> Box:
    """Return the room that a name takes to the right (side 1) or left (-1) of a point."""
    near, far = column + side * 11, column + side * (11 + 8.2 * len(name))
    return (min(near, far), height + shift - _LABEL_HEIGHT, max(near, far), height + shift)


def _overlap(one: Box, other: Box) -> bool:
    """Tell whether two boxes share room."""
    return one[0] < other[2] and other[0] < one[2] and one[1] < other[3] and other[1] < one[3]


def _shape(method: str) -> str:
    """Return the mark of a method: shape and colour both tell methods apart; what has none of its own is a grey wedge."""
    return SHAPES.get(family(method), "wedge")
