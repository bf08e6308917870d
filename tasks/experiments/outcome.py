"""What a pipeline run left behind, read from files: which run made which output, and the results."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from qlass.errors import DataError
from qlass.jsonl import read_json
from tasks.project import dvcfiles, paths

logger = logging.getLogger(__name__)


def stage_rows(root: Path, ran: set[str] | None) -> list[dict[str, Any]]:
    """Return one row per cell of `dvc.yaml` that `dvc.lock` has.

    Args:
        root: the repository.
        ran: the runs of this pipeline run, None where unknown.
    """
    lock = dvcfiles.read_lock(root)
    rows = []
    for cell in dvcfiles.cells(root):
        if cell.name not in lock or str(cell.pointer) not in cell.outs:
            continue
        run_id = pointed_run(root / cell.pointer)
        known = ran is not None and run_id is not None
        status = ("ran" if run_id in ran else "reused") if known and ran is not None else "unknown"
        hashed = dvcfiles.lock_hash(lock[cell.name])
        rows.append({"stage": cell.name, "status": status, "run_id": run_id, "dvc_lock": hashed})
    return rows


def pointed_run(pointer: Path) -> str | None:
    """Return the run id in a pointer file; None where there is none, tracking was down, or the file is damaged."""
    try:
        run_id = read_json(pointer).get("run_id") if pointer.exists() else None
    except DataError as error:
        logger.warning("pointer=%s error=%s; the stage is listed without its run", pointer, error)
        return None
    return str(run_id) if run_id else None


def result_metrics(root: Path) -> dict[str, Any]:
    """Return the evaluation metrics under names that are equal in every run: eval/<env>/<row>-<split>/<metric>.

    Only those that a cell of `dvc.yaml` writes: DVC leaves the files of cells that are no longer there.
    """
    evaluated = paths.DATA / "evaluate"
    outs = [Path(out) for cell in dvcfiles.cells(root) for out in cell.outs]
    found = [path for path in outs if path.is_relative_to(evaluated) and path.name == "metrics.json"]
    return {
        f"eval/{path.parent.relative_to(evaluated).as_posix()}-{split}": metrics
        for path in found
        if (root / path).exists()
        for split, metrics in read_json(root / path).items()
    }
