"""A full disk, whoever runs into it: torch, safetensors, SQLite and our own files each say it in their own words."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Iterator
from pathlib import Path

from qlass.errors import QlassError, StorageError

_WORDS = ("no space left on device", "disk is full", "disk quota exceeded")
_NOTHING = 64 * 1024
"""Free bytes that count as none: what was being written has often been removed again when the error arrives."""


def full(error: Exception) -> StorageError | None:
    """Return what a stage reports where an error means, or comes with, a full disk; else None.

    torch's writer says "unexpected pos" and nothing about the disk, so the disks are asked as well.
    """
    if isinstance(error, QlassError) and type(error) is not QlassError:
        return None  # it has its name
    said = any(word in str(one).lower() for one in _chain(error) for word in _WORDS)
    crowded = [folder for folder in (Path.cwd(), Path(tempfile.gettempdir())) if _free(folder) < _NOTHING]
    if not said and not crowded:
        return None
    where = crowded or [Path.cwd()]
    return StorageError(
        f"{' and '.join(map(str, where))}: no space left on the disk ({_free(where[0]) >> 20:,} MiB free) for what was to be "
        f"written: {error}; what was finished is kept, in .work/ and by DVC: make room and start again"
    )


def _chain(error: BaseException | None) -> Iterator[BaseException]:
    """Yield an error and what led to it."""
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__


def _free(folder: Path) -> int:
    return shutil.disk_usage(folder).free
