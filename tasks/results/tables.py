"""Markdown tables of intervals."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from qlass.evaluation import Interval
from qlass.report.headline import signed, span


def table(heads: Sequence[str], rows: Iterable[Sequence[str]], last: str = "---:") -> str:
    """Write a table; the first column has names, the others numbers, unless `last` aligns the last one otherwise."""
    head, *body = (f"| {' | '.join(cells)} |" for cells in (heads, *rows))
    return "\n".join([head, f"|{'|'.join(['---', *['---:'] * (len(heads) - 2), last])}|", *body])


def seed_heads(seeds: Iterable[int]) -> list[str]:
    """Return the heads of columns that show each seed, and all of them where there are several."""
    each = [f"seed {seed}" for seed in seeds]
    return each if len(each) == 1 else [*each, "all seeds"]


def level(interval: Interval) -> str:
    """Write a mean."""
    return f"{interval.mean:.1f} ({interval.low:.1f} to {interval.high:.1f})"


def change(interval: Interval | None) -> str:
    """Write a difference; nothing where there is none."""
    return "" if interval is None else f"{signed(interval.mean)} ({span(interval)})"


def interval_words(confidence: float, row: Sequence[Interval]) -> str:
    """Say what the intervals of a row are over: of each seed, and of all where there are several."""
    first, last = row[0].over, row[-1].over
    if len(row) == 1:
        return f"{confidence:.0%} interval over {first}"
    return f"{confidence:.0%} intervals: of one seed over {first}, of all seeds over {last}"
