"""All benchmarks, one after another, each in a process of its own: `python -m benchmarks` (or `make bench`).

Writes benchmarks/results/<date>.json and prints a table; `--only rollout,training` runs some of them, and writes nothing.
"""

from __future__ import annotations

import argparse
import os
from collections.abc import Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context

from benchmarks.rows import Row, rows_of, save

PARTS = (
    "environment",
    "webshop",
    "sciworld",
    "training",
    "rollout",
    "expand",
    "driver",
    "limits",
    "threads",
    "shares",
)


def table(rows: Sequence[Row]) -> str:
    """Return the rows as a Markdown table."""
    lines = ["| benchmark | ratio | ours | other | unit | how |", "|---|---:|---:|---:|---|---|"]
    for row in rows:
        lines.append(
            f"| `{row.name}` | {row.ratio:,.2f} | {row.ours:,.1f} | {row.other:,.1f} | {row.unit} | {row.how} |"
        )
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(prog="python -m benchmarks", description=__doc__)
    parser.add_argument("--only", metavar="PART,...", default=",".join(PARTS), help=f"of {', '.join(PARTS)}")
    chosen = parser.parse_args().only.split(",")
    if unknown := sorted(set(chosen) - set(PARTS)):
        parser.error(f"--only: found {', '.join(unknown)}; allowed: {', '.join(PARTS)}")
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ["OMP_NUM_THREADS"] = "1"  # before torch is imported: CPU seconds of one thread
    before = os.getloadavg()[0]
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        rows = [row for found in pool.map(rows_of, chosen) for row in found]
    print(table(rows))
    print(f"load average {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
    if set(chosen) == set(PARTS):
        print(f"written: {save('', before, rows)}")


if __name__ == "__main__":
    main()
