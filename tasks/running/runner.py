"""The shell that every stage program has in common: arguments, settings, logging, tracking, errors, exit codes.

A program is `raise SystemExit(run("explore", main))`; its arguments are the matrix keys of its entry in `dvc.yaml`.
"""

from __future__ import annotations

import argparse
import logging
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlass import processes
from qlass.errors import QlassError, SettingsError
from qlass.jsonl import read_json
from tasks.experiments import tracking
from tasks.project import dvcfiles, variables
from tasks.project.settings import Settings, declared, load
from tasks.running import console, disk, ending, leftovers, resume

logger = logging.getLogger(__name__)

_SMALL = 1_000_000
"""Bytes up to which an output is also an MLflow artifact; the rest is in DVC only."""


@dataclass(frozen=True, slots=True)
class StageJob:
    """What a stage program gets.

    Attributes:
        cell: its entry in dvc.yaml; `cell.items` are its arguments.
        settings: only the keys that it declares there can be read.
        tracker: its MLflow run.
    """

    cell: dvcfiles.Cell
    settings: Settings
    tracker: tracking.Tracker

    def settings_on(self, env: str) -> Settings:
        """Return the declared settings as they are on an environment, its overrides merged in."""
        return load(self.cell, env=env)

    def work_folder(self) -> AbstractContextManager[Path]:
        """Return the folder for finished parts of this very result (settings, inputs, code); see `tasks.running.resume`."""
        parts = {
            "params": declared(self.cell),
            "deps": resume.inputs(self.cell.deps),
            "outs": self.cell.outs,
        }
        return resume.work_folder(self.cell.stage, parts)


def run(stage: str, main: Callable[[StageJob], None], arguments: Sequence[str] | None = None) -> int:
    """Run a stage program and return its exit code: 0, that of a QlassError, 1 for a bug, 130 or 143 for a signal."""
    prepare()
    leftovers.end_with_dvc()
    try:
        cell = dvcfiles.cell(stage, parse(stage, arguments))
        scope = load(cell)
        with leftovers.running(cell.name), tracked(cell, scope) as tracker:
            main(StageJob(cell, scope, tracker))
    except KeyboardInterrupt:
        logger.error("error=interrupted exit_code=130")
        return 130
    except Exception as error:
        named = disk.full(error) or error
        if not isinstance(named, QlassError):
            raise
        return report(named)
    return 0


def report(error: QlassError) -> int:
    """Say what went wrong, without a traceback, and return the exit code."""
    logger.error("error=%s exit_code=%d\n%s", type(error).__name__, error.exit_code, error)
    return error.exit_code


def prepare(closing_s: float = processes.GRACE_S) -> None:
    """Set environment variables, logging and the meaning of SIGTERM and SIGINT for this process.

    Args:
        closing_s: seconds that it has from a signal to its end; see `tasks.running.ending`.

    Raises:
        SystemExit: an environment variable makes all further work futile.
    """
    variables.apply()
    logging.Formatter.converter = time.gmtime
    logging.basicConfig(
        level=logging.INFO,
        stream=sys.stderr,
        format="time=%(asctime)s level=%(levelname)s from=%(name)s %(message)s",
        datefmt="%Y-%m-%dT%H:%M:%SZ",
    )
    logging.captureWarnings(True)
    console.escape_unknown()
    ending.end_on_signals(closing_s)
    try:
        variables.check()
    except SettingsError as error:
        raise SystemExit(report(error)) from None


def parse(stage: str, arguments: Sequence[str] | None = None) -> dict[str, str]:
    """Return the arguments of a stage program by matrix key."""
    parser = argparse.ArgumentParser(
        prog=f"python -m tasks.stages.{stage}", description=f"Stage {stage}; see dvc.yaml."
    )
    for key, allowed in dvcfiles.choices(stage).items():
        parser.add_argument(key, choices=allowed, help="one of those that `run` in params.yaml names")
    return dict(vars(parser.parse_args(arguments)))


@contextmanager
def tracked(cell: dvcfiles.Cell, scope: Settings) -> Iterator[tracking.Tracker]:
    """Open an MLflow run around a stage: settings and inputs at the start, metrics and pointer at the end."""
    began = time.monotonic()
    tags = {"stage": cell.stage, **cell.items}
    tracker = tracking.open_run(cell.name, scope.tracking.experiment, tags=tags)
    status: tracking.Status = "FAILED"
    try:
        tracker.params(declared(cell))
        log_inputs(tracker, cell)
        tracker.watch_system()
        logger.info("stage=%s run_id=%s start=1", cell.name, tracker.run_id)
        yield tracker
        log_outputs(tracker, cell)
        tracker.metrics({"wall_s": time.monotonic() - began})
        tracker.write_pointer(cell.pointer)
        status = "FINISHED"
        logger.info("stage=%s run_id=%s wall_s=%.1f", cell.name, tracker.run_id, time.monotonic() - began)
    except (KeyboardInterrupt, SystemExit):
        status = "KILLED"
        raise
    finally:
        tracker.finish(status)


def log_inputs(tracker: tracking.Tracker, cell: dvcfiles.Cell) -> None:
    """Name the data that the stage reads, with the hashes that DVC recorded when it was written."""
    try:
        hashes = dvcfiles.output_hashes()
    except QlassError as error:  # a stage reads its inputs, not their hashes
        tracker.give_up(error)
        return
    for path in cell.deps:
        inside = {out: md5 for out, md5 in hashes.items() if out == path or out.startswith(f"{path}/")}
        for out, md5 in inside.items():
            tracker.dataset(out, md5)


def log_outputs(tracker: tracking.Tracker, cell: dvcfiles.Cell) -> None:
    """Log the metrics files and attach the small files among the outputs."""
    for name in cell.outs:
        path = Path(name)
        if path == cell.pointer or not path.is_file() or path.stat().st_size > _SMALL:
            continue
        tracker.artifact(path)
        if path.name in ("metrics.json", "stats.json", "summary.json"):
            found: Any = read_json(path)
            tracker.metrics(found if isinstance(found, dict) else {})
