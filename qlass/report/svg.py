"""Small functions that write SVG: elements, scales, frames. Colours are CSS classes, so one picture fits light and dark."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from markupsafe import Markup, escape

Number = float | int


def number(value: Number) -> str:
    """Write a coordinate: two decimals at most, no trailing zeros, equal on every machine."""
    text = f"{value:.2f}".rstrip("0").rstrip(".")
    return "0" if text == "-0" else text


def tag(name: str, *children: object, **attributes: object) -> Markup:
    """Return an element with everything escaped.

    `class_` becomes `class`, other underscores become hyphens; None attributes are left out; numbers are shortened.
    """
    parts = [Markup("<%s") % Markup(name)]
    for key, value in attributes.items():
        if value is None:
            continue
        attribute = "class" if key == "class_" else key.replace("_", "-")
        text = number(value) if isinstance(value, int | float) and not isinstance(value, bool) else value
        parts.append(Markup(' %s="%s"') % (Markup(attribute), str(text)))
    inner = Markup("").join(escape(child) for child in children)
    return Markup("").join([*parts, Markup(">"), inner, Markup("</%s>") % Markup(name)])


def text(x: Number, y: Number, content: str, class_: str = "tick", anchor: str = "middle") -> Markup:
    """Return a line of text; `anchor` is start, middle or end."""
    return tag("text", content, x=x, y=y, class_=class_, text_anchor=anchor)


def line(x1: Number, y1: Number, x2: Number, y2: Number, class_: str) -> Markup:
    """Return a straight line."""
    return tag("line", x1=x1, y1=y1, x2=x2, y2=y2, class_=class_)


def path(points: Sequence[tuple[Number, Number]], class_: str) -> Markup:
    """Return a polyline through the points."""
    steps = " ".join(f"{'L' if index else 'M'}{number(x)} {number(y)}" for index, (x, y) in enumerate(points))
    return tag("path", d=steps, class_=class_)


def marker(shape: str, x: Number, y: Number, size: float, class_: str, title: str = "") -> Markup:
    """Return a mark of the given shape (circle, square, triangle, diamond, wedge) and radius, with a tooltip."""
    inner = tag("title", title) if title else ""
    if shape == "circle":
        return tag("circle", inner, cx=x, cy=y, r=size, class_=class_)
    corners = {
        "square": ((-0.9, -0.9), (0.9, -0.9), (0.9, 0.9), (-0.9, 0.9)),
        "triangle": ((0.0, -1.2), (1.1, 0.85), (-1.1, 0.85)),
        "wedge": ((0.0, 1.2), (1.1, -0.85), (-1.1, -0.85)),
        "diamond": ((0.0, -1.3), (1.1, 0.0), (0.0, 1.3), (-1.1, 0.0)),
    }[shape]
    points = " ".join(f"{number(x + dx * size)},{number(y + dy * size)}" for dx, dy in corners)
    return tag("polygon", inner, points=points, class_=class_)


def picture(width: Number, height: Number, label: str, *children: object, class_: str = "chart") -> Markup:
    """Return a whole picture with a text alternative."""
    return tag(
        "svg",
        *children,
        viewBox=f"0 0 {number(width)} {number(height)}",
        width=width,
        role="img",
        aria_label=label,
        class_=class_,
    )


@dataclass(frozen=True, slots=True)
class Scale:
    """Maps data values to pixels, linearly or by logarithm.

    Attributes:
        low: data value at `start`; positive where `log`.
        high: data value at `end`, greater than `low`.
        start: pixel.
        end: pixel.
        log: True for a logarithmic scale.
    """

    low: float
    high: float
    start: float
    end: float
    log: bool = False

    def __call__(self, value: float) -> float:
        """Return the pixel of a value; values outside are clipped to the ends."""
        low, high, value = (math.log(max(x, 1e-12)) if self.log else x for x in (self.low, self.high, value))
        share = min(max((value - low) / (high - low), 0.0), 1.0)
        return self.start + share * (self.end - self.start)

    def ticks(self, count: int = 5) -> list[float]:
        """Return about `count` round values inside the scale."""
        return _log_ticks(self.low, self.high) if self.log else _linear_ticks(self.low, self.high, count)


def _linear_ticks(low: float, high: float, count: int) -> list[float]:
    """Return multiples of 1, 2, 2.5 or 5 x a power of ten."""
    rough = (high - low) / count
    power = 10.0 ** math.floor(math.log10(rough))
    step = next(power * unit for unit in (1, 2, 2.5, 5, 10) if power * unit >= rough * 0.999)
    first = math.ceil(low / step - 1e-9)
    return [index * step for index in range(first, math.floor(high / step + 1e-9) + 1)]


def _log_ticks(low: float, high: float) -> list[float]:
    """Return 1, 2 and 5 times the powers of ten inside the range."""
    powers = range(math.floor(math.log10(low)), math.ceil(math.log10(high)) + 1)
    candidates = [unit * 10.0**power for power in powers for unit in (1, 2, 5)]
    return [value for value in candidates if low * 0.999 <= value <= high * 1.001]


def show(value: float) -> str:
    """Write a tick label: thousands with a comma, no needless decimals."""
    if abs(value) >= 1000:
        return f"{value:,.0f}"
    return f"{value:.4g}"


def frame(x: Scale, y: Scale, x_label: str, y_label: str, *, x_ticks: Sequence[float] | None = None) -> Markup:
    """Return grid lines, ticks and axis titles of a plot; the y title stands above the axis, so it reads level."""
    left, right = x.start, x.end
    bottom, top = y.start, y.end
    parts = []
    for value in y.ticks():
        parts.append(line(left, y(value), right, y(value), "grid"))
        parts.append(text(left - 7, y(value) + 4, show(value), anchor="end"))
    for value in x.ticks() if x_ticks is None else x_ticks:
        parts.append(line(x(value), bottom, x(value), bottom + 4, "axis"))
        parts.append(text(x(value), bottom + 17, show(value)))
    parts.append(line(left, bottom, right, bottom, "axis"))
    parts.append(text((left + right) / 2, bottom + 35, x_label, "label"))
    parts.append(text(4, top - 13, y_label, "label", "start"))
    return Markup("").join(parts)
