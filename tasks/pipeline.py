"""Run the pipeline as one thing: `python -m tasks.pipeline [arguments of dvc repro]`; this is `make run`.

Plain `dvc repro` gives the same outputs; here its stages become children of one MLflow run, which also lists what was
reused and which run made it. Afterwards policy and QNet are registered.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qlass import processes
from qlass.errors import QlassError
from tasks import register
from tasks.experiments import identity, tracking
from tasks.project import dvcfiles, paths
from tasks.project.settings import load_all
from tasks.running import console, leftovers, runner

logger = logging.getLogger(__name__)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run `dvc repro`, register, print the results; return the exit code."""
    runner.prepare(3 * processes.GRACE_S)  # its stages have the first of these parts
    root = Path.cwd()
    try:
        settings = load_all()
        dvcfiles.check_project(root)
        leftovers.clear(root)
        dvcfiles.cells(root)
        registers = "qlass" in settings.run.methods
        if registers:
            register.check(settings, root)
        parent = tracking.start_pipeline_run(root)
        os.environ[tracking.PARENT] = parent or ""
        os.environ.pop(identity.FLOW_RUN, None)  # of a flow run that this is not
    except QlassError as error:
        return runner.report(error)
    status: tracking.Status = "KILLED"
    try:
        code = repro(sys.argv[1:] if arguments is None else arguments)
        if code == 0 and registers:
            code = register.main([])
        status = "FAILED" if code else "FINISHED"
    except KeyboardInterrupt:
        code = 130
    finally:
        rows = tracking.finish_pipeline_run(root, parent, status)
    console.say(summary(root, rows, results=status == "FINISHED"))
    return code


def repro(arguments: Sequence[str]) -> int:
    """Run `dvc repro`; it ends with all its stages when this process ends, in whatever way."""
    return processes.run([*dvcfiles.program(Path.cwd()), "repro", *arguments])


def summary(root: Path, rows: Sequence[Mapping[str, Any]], *, results: bool = True) -> str:
    """Return what a user wants to see at the end: stages, results, where the report is, how to see the runs.

    Without `results` for a run that failed: the files that lie there are those of an earlier one.
    """
    width = max((len(row["stage"]) for row in rows), default=0)
    lines = ["", *(f"{row['stage']:<{width}}  {row['status']:<7}  run {row['run_id']}" for row in rows), ""]
    table, page = root / paths.REPORT / "results.md", root / paths.REPORT / "index.html"
    if results and table.exists():
        lines += [table.read_text(encoding="utf-8", errors="replace")]
    if results and page.exists():
        lines += [f"report: {page}"]
    lines += [f"runs:   {tracking.ui_command(root)}", ""]
    return "\n".join(lines)


if __name__ == "__main__":
    raise SystemExit(main())
