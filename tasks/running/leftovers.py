"""What a killed DVC leaves behind: a lock file that nobody can read, a cut `dvc.lock`, a stage that nobody waits for.

DVC rewrites `.dvc/tmp/rwlock` and `dvc.lock` in place. Killed while it writes, it leaves part of a file, and every later
command of DVC refuses to read it (docs/log.md holds what we would report upstream). Its stage runs on, with nobody to
take its outputs.
"""

from __future__ import annotations

import contextlib
import json
import logging
import os
import select
import shutil
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from qlass.errors import Busy, DataError
from tasks.project import dvcfiles, paths
from tasks.running import ending, resume

logger = logging.getLogger(__name__)

RUNNING = Path("running")
"""Folder in the work folder with one lock per stage that runs now."""

_RWLOCK = Path(".dvc") / "tmp" / "rwlock"
_DAMAGED = Path(".dvc") / "tmp" / "dvc.lock.damaged"
_PATIENCE_S = 20.0  # a left-over stage ends itself; this is longer than its worker processes take
_LOOKS_S = (0.0, 0.3, 1.0)  # pauses before each look at `dvc.lock`: another DVC may be writing it
_OTHERS_S = 2.0  # who kills DVC by SIGTERM has told the stage too, by then


def clear(root: Path) -> None:
    """Make a project usable in which DVC was killed; does nothing where nothing is wrong.

    Args:
        root: the repository.

    Raises:
        Busy: a file cannot be read while DVC still works here, or a left-over stage does not end.
        DataError: `dvc.lock` cannot be read, and not because its end is missing.
    """
    _wait_for_stages(root)
    _clear_rwlock(root)
    _complete_dvc_lock(root)


def running(cell: str, root: Path = Path()) -> contextlib.AbstractContextManager[None]:
    """Hold the lock that says that this process runs a stage.

    Args:
        cell: the stage's name, such as `explore@alfworld`.
        root: the repository.

    Raises:
        Busy: another process runs the same stage, be it one that a killed DVC left.
    """
    folder = root / paths.WORK / RUNNING
    folder.mkdir(parents=True, exist_ok=True)
    return resume.held(folder / f"{cell}.lock")


def end_with_dvc() -> None:
    """Let this stage end by SIGTERM when the DVC that started it is gone: nobody would take its outputs.

    What is finished stays in the work folder for the next run. Linux; elsewhere, and where no DVC started this process,
    nothing happens.
    """
    if "DVC_STAGE" not in os.environ or not hasattr(os, "pidfd_open"):
        return
    try:
        parent = psutil.Process().parent()
        # `sh -c "python -m tasks.stages..."`; most shells replace themselves by a single command.
        if parent is not None and parent.cmdline()[-2:-1] == ["-c"]:
            parent = parent.parent()
        if parent is None or not _is_dvc(parent):
            return
        descriptor = os.pidfd_open(parent.pid)
    except (psutil.Error, OSError):  # it is gone already; the lock of `running` tells the next run of us
        return
    threading.Thread(target=_end_after, args=(descriptor, parent.pid), name="dvc-watch", daemon=True).start()


def _end_after(descriptor: int, pid: int) -> None:
    """Wait for the end of a process, then end this one."""
    select.select([descriptor], [], [])
    time.sleep(_OTHERS_S)
    if not ending.leaving():
        logger.warning("dvc=%d is gone; this stage ends, and the next run goes on from here", pid)
        os.kill(os.getpid(), signal.SIGTERM)


def _wait_for_stages(root: Path) -> None:
    """Wait for stages whose DVC is gone; they end themselves."""
    for path in sorted((root / paths.WORK / RUNNING).glob("*.lock")):
        deadline = time.monotonic() + _PATIENCE_S
        told = False
        while (pid := resume.holder(path)) is not None and not _has_dvc(pid):
            problem = f"stage {path.stem} still runs, without a DVC that waits for it: {resume.about(pid)}"
            if time.monotonic() > deadline:
                raise Busy(f"{problem}, and run again")
            if not told:
                logger.warning("%s; it should end by itself now", problem)
                told = True
            time.sleep(0.2)


def _clear_rwlock(root: Path) -> None:
    """Remove DVC's list of paths in use where it cannot be read and no DVC lives that could stand in it."""
    path = root / _RWLOCK
    if not path.exists() or _readable(path):
        return
    from dvc.lock import LockError, make_lock

    try:
        with make_lock(str(path.with_name("rwlock.lock"))):  # whoever writes the file holds this
            if _readable(path):
                return
            if living := list(_dvc_at_work(root)):
                raise Busy(
                    f"{path}: cannot be read, because a DVC was killed while it wrote it; but another one works in this "
                    f"project, which may stand in it: {resume.about(living[0].pid)}, and run again"
                )
            path.unlink()
    except LockError as error:
        raise Busy(f"{path}: cannot be read, and another DVC holds its lock; wait for it, and run again") from error
    logger.warning("%s: removed: DVC was killed while it wrote this list of the paths in use; nothing is lost", path)


def _readable(path: Path) -> bool:
    """Say whether DVC can read the list."""
    from dvc.rwlock import SCHEMA
    from voluptuous import Invalid

    try:
        SCHEMA(json.loads(path.read_bytes()))
    except (ValueError, Invalid):
        return False
    except FileNotFoundError:
        return True
    return True


def _complete_dvc_lock(root: Path) -> None:
    """Give `dvc.lock` the end that a killed DVC did not write: of the last commit, where that has one.

    What the commit does not know is found in DVC's run cache, so nothing is computed again.
    """
    path = root / paths.DVC_LOCK
    if not path.exists() or any(_whole(path, pause_s) for pause_s in _LOOKS_S):
        return
    text = path.read_bytes()
    # The whole stages that are left: all before the last line that begins one.
    lines = text.splitlines(keepends=True)
    starts = [
        number for number, line in enumerate(lines) if line[:2] == b"  " and line[2:3].strip() not in (b"", b"-")
    ]
    kept = _stages(b"".join(lines[: starts[-1]])) if len(starts) > 1 else {}
    if kept is None or b"\n<<<<<<<" in b"\n" + text:
        raise DataError(
            f"{path}: DVC cannot read it; take the version of the last commit (`git checkout dvc.lock`) and run again: what "
            "DVC has in its cache is not computed again"
        )
    if living := list(_dvc_at_work(root)):
        raise Busy(f"{path}: its end is missing, and DVC works in this project: {resume.about(living[0].pid)}")
    from dvc.utils.serialize import dump_yaml

    shutil.copyfile(path, root / _DAMAGED)
    committed = subprocess.run(["git", "show", f"HEAD:./{paths.DVC_LOCK}"], cwd=root, capture_output=True, check=False)
    stages = {**(_stages(committed.stdout) or {}), **kept}
    if stages:
        dump_yaml(str(path), {"schema": "2.0", "stages": stages})
    else:
        path.unlink()
    logger.warning(
        "%s: its end was missing, because DVC was killed while it wrote it; %d stages kept, %d taken from the last commit; "
        "the damaged file is %s",
        path,
        len(kept),
        len(stages) - len(kept),
        _DAMAGED,
    )


def _whole(path: Path, pause_s: float) -> bool:
    """Say, after a pause, whether a `dvc.lock` is complete: DVC can read it, and its last line has an end."""
    time.sleep(pause_s)
    text = path.read_bytes()
    return text.endswith(b"\n") and _stages(text) is not None


def _stages(text: bytes) -> dict[str, Any] | None:
    """Return the stages of a `dvc.lock`; None where DVC cannot read it."""
    from dvc.schema import COMPILED_LOCKFILE_SCHEMA
    from ruamel.yaml import YAML
    from ruamel.yaml.error import YAMLError
    from voluptuous import Invalid

    try:
        found: dict[str, Any] = COMPILED_LOCKFILE_SCHEMA(YAML(typ="safe").load(text))
    except (YAMLError, Invalid, UnicodeDecodeError):
        return None
    return dict(found.get("stages") or {})


def _dvc_at_work(root: Path) -> Iterator[psutil.Process]:
    """Yield the DVC processes whose working directory lies in the project."""
    for process in psutil.process_iter():
        with contextlib.suppress(psutil.Error):
            if _is_dvc(process) and Path(process.cwd()).is_relative_to(root.resolve()):
                yield process


def _has_dvc(pid: int) -> bool:
    """Say whether a process was started by a DVC that lives."""
    try:
        return any(map(_is_dvc, psutil.Process(pid).parents()))
    except psutil.Error:
        return False


def _is_dvc(process: psutil.Process) -> bool:
    """Say whether a process is the program `dvc`, also as `python -m dvc` and as `tasks.project.dvcfiles.program`."""
    try:
        return any(Path(word).name in ("dvc", dvcfiles.__name__) for word in process.cmdline()[:4])
    except psutil.Error:
        return False
