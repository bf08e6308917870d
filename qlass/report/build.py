"""Build the report: read, compute, write. Equal inputs give equal bytes."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from pathlib import Path

from qlass.jsonl import replacing, write_json
from qlass.report import tables
from qlass.report.inputs import ReportInputs, ReportSettings
from qlass.report.page import render
from qlass.report.sections import EnvPage, env_page

logger = logging.getLogger(__name__)


def build_report(inputs: ReportInputs, settings: ReportSettings) -> None:
    """Write index.html, summary.json, results.csv, results.md and plots/*.csv into `inputs.out`.

    The page is one file: no address outside it is loaded, and it reads without JavaScript. A file that does not exist
    becomes a sentence that says so.

    Raises:
        DataError: an input is corrupt; the message names file and line.
        StorageError: an output could not be written.
    """
    pages = [env_page(env, settings) for env in inputs.envs]
    results = [result for page in pages for result in page.results]
    write_json(inputs.out / "summary.json", tables.summary(results))
    rows = [tables.summary_row(result) for result in results]
    _write(inputs.out / "results.csv", tables.to_csv(tables.COLUMNS, rows))
    level = f"{settings.confidence:.0%}"
    _write(inputs.out / "results.md", tables.results_markdown(inputs, results, pages, level))
    _write_series(inputs.out / "plots", pages)
    with replacing(inputs.out / "index.html") as temporary:
        temporary.write_bytes(render(pages, inputs, settings))
    for page in pages:
        logger.info("report env=%s rows=%d", page.name, len(page.results))


def _write_series(folder: Path, pages: Sequence[EnvPage]) -> None:
    """Write the numbers behind the pictures that no earlier stage has written."""
    budget = [row for page in pages for row in tables.budget_rows(page.results)]
    _write(folder / "budget.csv", tables.to_csv(tables.BUDGET_COLUMNS, budget))
    _write(folder / "categories.csv", tables.to_csv(tables.CATEGORY_COLUMNS, tables.category_rows(pages)))
    _write(folder / "branches.csv", tables.to_csv(tables.BRANCH_COLUMNS, tables.branch_rows(pages)))


def _write(path: Path, text: str) -> None:
    """Write a text file atomically, with the same line ends on every system."""
    with replacing(path) as temporary:
        temporary.write_bytes(text.encode("utf-8"))
