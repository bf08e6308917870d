"""The colour scale of Q: viridis, which is ordered by lightness and safe for colour-blind readers."""

from __future__ import annotations

_STOPS = (
    (0x44, 0x01, 0x54),
    (0x47, 0x2C, 0x7A),
    (0x3B, 0x51, 0x8B),
    (0x2C, 0x71, 0x8E),
    (0x21, 0x90, 0x8D),
    (0x27, 0xAD, 0x81),
    (0x5C, 0xC8, 0x63),
    (0xAA, 0xDC, 0x32),
    (0xFD, 0xE7, 0x25),
)
"""Nine points of matplotlib's viridis (CC0), from 0 to 1."""


def q_colour(q: float) -> str:
    """Return the colour of a value in [0, 1] as `#rrggbb`; values outside are clipped."""
    position = min(max(q, 0.0), 1.0) * (len(_STOPS) - 1)
    index = min(int(position), len(_STOPS) - 2)
    share = position - index
    channels = (round(a + share * (b - a)) for a, b in zip(_STOPS[index], _STOPS[index + 1], strict=True))
    return "#" + "".join(f"{channel:02x}" for channel in channels)


def ink_on(colour: str) -> str:
    """Return black or white, whichever stands out more on `#rrggbb` (WCAG contrast; at least 4.5 by construction)."""
    return "#000" if luminance(colour) > 0.179 else "#fff"


def luminance(colour: str) -> float:
    """Return the relative luminance of `#rrggbb` in [0, 1] (WCAG 2)."""
    channels = [int(colour[start : start + 2], 16) / 255 for start in (1, 3, 5)]
    linear = [c / 12.92 if c <= 0.04045 else ((c + 0.055) / 1.055) ** 2.4 for c in channels]
    return 0.2126 * linear[0] + 0.7152 * linear[1] + 0.0722 * linear[2]
