"""What every benchmark returns: ratios of two ways to do the same work, measured side by side in one process."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from time import process_time


@dataclass(frozen=True, slots=True)
class Row:
    """One comparison.

    Attributes:
        name: of the comparison.
        ratio: how many times faster ours is; above 1 is better.
        ours: what ours does, in `unit`.
        other: what the other way does, in `unit`.
        unit: work per CPU second of this process.
        how: what was compared with what, in words.
    """

    name: str
    ratio: float
    ours: float
    other: float
    unit: str
    how: str

    @classmethod
    def of(cls, name: str, ours: float, other: float, unit: str, how: str) -> Row:
        """Compare two rates."""
        return cls(name, ours / other, ours, other, unit, how)


def cpu_seconds(work: Callable[[], object]) -> float:
    """Return the CPU seconds of this process, over all its threads, that some work takes."""
    start = process_time()
    work()
    return process_time() - start
