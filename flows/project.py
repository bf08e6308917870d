"""Where the project lies, and the environment of the processes that flows start."""

from __future__ import annotations

import os
from pathlib import Path

from tasks.project import variables

RESULTS = "data/report/results.md"
REPORT = "data/report/index.html"


def project_root() -> Path:
    """Return the folder of `dvc.yaml`: this repository, or `$QLASS_ROOT` (a checkout elsewhere, a test project).

    Every path and subprocess of a flow starts here, so the working directory of a worker does not matter.

    Raises:
        FileNotFoundError: the folder is not a DVC project.
    """
    named = os.environ.get("QLASS_ROOT")
    root = Path(named).expanduser().resolve() if named else Path(__file__).resolve().parents[1]
    missing = [name for name in ("dvc.yaml", ".dvc") if not (root / name).exists()]
    if missing:
        origin = "QLASS_ROOT" if named else "the folder above flows/"
        raise FileNotFoundError(
            f"flows: no {' and no '.join(missing)} in {root} ({origin}). "
            "Point QLASS_ROOT to a checkout of the project, or run `dvc init` there."
        )
    variables.apply(root)
    return root


def stage_environment(flow_run_id: str, parent_run_id: str | None) -> dict[str, str]:
    """Return the environment of a stage: ours, after `tasks.project.variables`. Nothing in it changes a result.

    Args:
        flow_run_id: id of the Prefect flow run.
        parent_run_id: id of the MLflow run of this pipeline run; None where tracking is down.
    """
    env = {name: value for name, value in os.environ.items() if name != "QLASS_PARENT_RUN_ID"}
    env["PYTHONUNBUFFERED"] = "1"  # a line of the log arrives when it is written, not when a buffer is full
    env["QLASS_FLOW_RUN_ID"] = flow_run_id
    if parent_run_id:
        env["QLASS_PARENT_RUN_ID"] = parent_run_id
    return env
