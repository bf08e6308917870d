"""Where a run's numbers come from, and whether they are those of all its stages."""

from __future__ import annotations

import hashlib
from datetime import UTC, datetime
from pathlib import Path

from qlass.errors import DataError, QlassError
from qlass.jsonl import read_json
from tasks.experiments import tracking
from tasks.project import dvcfiles, paths
from tasks.results.kept import Run

_NAMED = 3
"""Stages that an error names; a project in which nothing ran has dozens."""


def check_complete(project: Path) -> None:
    """Check that every stage has run and is up to date.

    Raises:
        SettingsError: the folder is no DVC project, or DVC refuses its files.
        DataError: a stage is out of date.
    """
    dvcfiles.check_project(project)
    behind = [stage for stage in dvcfiles.status(project) if set(stage.reasons) - {dvcfiles.ALWAYS}]
    if behind:
        named = "; ".join(f"{stage.name} ({', '.join(stage.reasons)})" for stage in behind[:_NAMED])
        more = f"; and {len(behind) - _NAMED} more" if len(behind) > _NAMED else ""
        raise DataError(
            f"{project}: the run is not complete or is out of date: {named}{more}; only what is up to date is kept: run "
            "`dvc repro` there first"
        )


def run_of(seed: int, project: Path) -> Run:
    """Return where a run's numbers come from: from the files, and from the MLflow run of stage `report`, which is its last.

    Raises:
        DataError: MLflow does not know that run, or there was no git.
    """
    pointer = project / paths.run_pointer("report")
    run_id = read_json(pointer)["run_id"]
    again = f"run `dvc repro --force --single-item report` in {project}, which takes seconds"
    if run_id is None:
        raise DataError(f"{pointer}: no run: MLflow could not be reached; {again}, with MLflow in reach")
    try:
        found = tracking.connect(project).get_run(run_id)
    except QlassError:
        raise
    except Exception as error:  # whatever MLflow raises
        raise DataError(
            f"{pointer}: MLflow at {tracking.tracking_uri(project)} does not know the run {run_id} ({error}); bring back "
            f"the store that it was tracked in, or {again}"
        ) from error
    tags = found.data.tags
    if "git.commit" not in tags:
        raise DataError(f"{project}: the run was made without git, so its code has no name; commit it, then {again}")
    return Run(
        seed=seed,
        date=datetime.fromtimestamp(found.info.start_time / 1000, UTC).date().isoformat(),
        commit=tags["git.commit"],
        dirty=tags.get("git.dirty") != "false",
        params_sha256=_sha256(project / paths.PARAMS),
        dvc_lock_sha256=_sha256(project / paths.DVC_LOCK),
    )


def _sha256(path: Path) -> str:
    """Return the hash of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()
