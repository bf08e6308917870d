"""Work folders: what an interrupted stage leaves behind, so that the next run goes on instead of starting over.

`.work/<stage>/<key>/` lies outside the DVC outs, which DVC deletes before it runs a stage. The key is a hash of all that
determines the result (settings, inputs, code), so a folder can never be continued under other conditions.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qlass.errors import Busy, DataError
from tasks.project import paths

_SHARED_CODE = ("qlass/records.py", "qlass/seeds.py", "tasks/running/shards.py")
"""Code that takes part in every result that is made in parts, beside what `dvc.yaml` names."""


def content_hash(path: Path) -> str:
    """Return the SHA-256 of a file, or of all files of a folder with their relative names; bytecode is left out.

    Raises:
        DataError: there is no such file or folder.
    """
    if path.is_file():
        with path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    if not path.is_dir():
        raise DataError(f"{path}: no such file or folder; run the stage that writes it (`dvc repro`)")
    files = sorted(file for file in path.rglob("*") if file.is_file() and "__pycache__" not in file.parts)
    names = [(file.relative_to(path).as_posix(), content_hash(file)) for file in files]
    return hashlib.sha256(json.dumps(names).encode()).hexdigest()


def inputs(deps: Iterable[str], root: Path = Path()) -> dict[str, str]:
    """Return path -> content hash of what a result is made from: the deps that `dvc.yaml` names, and the shared code.

    Args:
        deps: files and folders relative to the repository; code among them.
        root: the repository.

    Raises:
        DataError: one of the deps is not there.
    """
    shared = [path for path in _SHARED_CODE if (root / path).exists()]
    return {path: content_hash(root / path) for path in [*deps, *shared]}


def work_key(parts: Mapping[str, Any]) -> str:
    """Return the name of the work folder for these JSON values."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:24]


@contextmanager
def work_folder(stage: str, key_parts: Mapping[str, Any], root: Path = paths.WORK) -> Iterator[Path]:
    """Yield the work folder of these conditions, with what an earlier run finished; remove it when the block ends well.

    After an error, a signal or a kill it stays. The lock is the kernel's: it ends with its process, however that dies.

    Args:
        stage: first folder level; a readable name.
        key_parts: everything that determines the result, as JSON values.
        root: where work folders lie.

    Raises:
        Busy: another live process works in this folder.
    """
    folder = root / stage / work_key(key_parts)
    folder.mkdir(parents=True, exist_ok=True)
    lock = folder.with_name(f"{folder.name}.lock")
    with _held(lock):
        yield folder
        shutil.rmtree(folder)
        lock.unlink()


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file that names the holder."""
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = _names(path, file.fileno())  # else the holder finished and removed it meanwhile
        except BlockingIOError:
            free = False
        if not free:
            file.seek(0)
            raise Busy(
                f"{path}: process {file.read().strip() or 'unknown'} is working on the same thing; "
                "wait for it, or end it if it was left over, and run again"
            )
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        yield


def _names(path: Path, descriptor: int) -> bool:
    """Say whether a path still names an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
