"""Work folders: what an interrupted stage leaves behind, so that the next run goes on instead of starting over.

`.work/<stage>/<key>/` lies outside the DVC outs, which DVC deletes before it runs a stage. The key is a hash of all that
determines the result (settings, inputs, code), so a folder can never be continued under other conditions.
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import shlex
import shutil
import textwrap
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import psutil

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

    After an error, a signal or a kill it stays.

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
    with held(lock):
        yield folder
        shutil.rmtree(folder)


@contextmanager
def held(path: Path) -> Iterator[None]:
    """Hold an exclusive lock on a file that names the holder; the file is gone when the block ends.

    The lock is the kernel's: it ends with its process, however that dies.

    Raises:
        Busy: another live process holds it.
    """
    with path.open("a+") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            free = _names(path, file.fileno())  # else the holder finished and removed it meanwhile
        except BlockingIOError:
            free = False
        if not free:
            file.seek(0)
            raise Busy(f"{path}: somebody works on the same thing: {about(file.read())}, and run again")
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        try:
            yield
        finally:
            path.unlink(missing_ok=True)


def holder(path: Path) -> int | None:
    """Return the id of the process that holds a lock of `held`; None where nobody does."""
    try:
        with path.open() as file:
            try:
                fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
            except BlockingIOError:
                return int(file.read() or 0) or None  # nothing: it was opened this moment
    except FileNotFoundError:
        return None
    return None


def about(pid: int | str) -> str:
    """Return which process that is, how to wait for it and how to end it: the end of a message."""
    try:
        process = psutil.Process(int(pid))
        since = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(process.create_time()))
        command = textwrap.shorten(shlex.join(process.cmdline()), 160)
        found = f"process {pid} (`{command}`, since {since})"
    except (psutil.Error, ValueError):
        return f"process {pid or 'unknown'}, which is not of this machine; wait for it, or end it there"
    return f"{found}; wait for it (`tail --pid={pid} -f /dev/null`), or end it if it was left over (`kill {pid}`)"


def _names(path: Path, descriptor: int) -> bool:
    """Say whether a path still names an open file."""
    try:
        return os.path.samestat(path.stat(), os.fstat(descriptor))
    except FileNotFoundError:
        return False
