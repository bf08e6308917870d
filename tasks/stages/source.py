"""Stage `source`: what `base.source` is, so that DVC sees when a folder that lies anywhere has changed.

It runs at each `dvc repro`, and keeps no MLflow run. Of large files the ends are read: training changes every tensor.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

from qlass.errors import QlassError
from qlass.jsonl import write_json
from tasks.project import paths, settings
from tasks.running import runner
from tasks.stages.base import model_files, model_folder

ENDS = 1 << 20
"""Bytes at each end of a file that are read."""


def described(source: str, revision: str | None) -> dict[str, Any]:
    """Return the files of a folder with their sizes and hashes; of a Hugging Face id, the commit.

    Raises:
        SettingsError: it is neither.
        ModelMismatch: the folder holds no whole model.
    """
    folder = model_folder(source, revision)
    if folder is None:
        return {"revision": revision}
    return {"files": {file.name: [file.stat().st_size, _digest(file)] for file in model_files(folder)}}


def _digest(path: Path) -> str:
    with path.open("rb") as file:
        ends = file.read(ENDS)
        file.seek(max(path.stat().st_size - ENDS, 0))
        return hashlib.sha256(ends + file.read(ENDS)).hexdigest()


def main() -> int:
    """Write the file; return the exit code."""
    runner.prepare()
    argparse.ArgumentParser(
        prog="python -m tasks.stages.source", description="Stage source; see dvc.yaml."
    ).parse_args()
    try:
        base = settings.load_all().base
        write_json(paths.BASE_SOURCE, described(base.source, base.revision))
    except QlassError as error:
        return runner.report(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
