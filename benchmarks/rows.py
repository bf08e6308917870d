"""What every benchmark returns: ratios of two ways to do the same work, measured side by side."""

from __future__ import annotations

import datetime
import json
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from time import process_time

RESULTS = Path(__file__).parent / "results"


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


def rows_of(part: str) -> list[Row]:
    """Run one part, a module of this package.

    In a process of its own: what other parts had left in a process (memory, kernels) made the same work up to a fifth slower.
    """
    rows: list[Row] = import_module(f"benchmarks.{part}").rows()
    return rows


def save(suffix: str, load_average: float, rows: Sequence[Row]) -> Path:
    """Write rows to `results/<date><suffix>.json`; return the file."""
    RESULTS.mkdir(exist_ok=True)
    path = RESULTS / f"{datetime.datetime.now(datetime.UTC).date()}{suffix}.json"
    path.write_text(json.dumps({"load_average": load_average, "rows": [asdict(row) for row in rows]}, indent=2) + "\n")
    return path
