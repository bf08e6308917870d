"""Resumable training states: a folder per state, complete from the moment it has its name."""

from __future__ import annotations

import os
import shutil
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from qlass.errors import SettingsError, StorageError
from qlass.jsonl import read_json, write_json
from qlass.training.core.backends import Backend

_PREFIX = "checkpoint-"


@dataclass(frozen=True, slots=True)
class LossRow:
    """One row of the loss curve.

    Attributes:
        step: optimizer steps done.
        epoch: passes over the data done, as a fraction.
        loss: mean per supervised position over the steps since the last row.
        lr: learning rate of this step.
        tokens: real tokens seen since the start.
    """

    step: int
    epoch: float
    loss: float
    lr: float
    tokens: int


@dataclass(slots=True)
class TrainState:
    """What the loop itself remembers.

    Attributes:
        step: optimizer steps done.
        tokens: real tokens seen.
        loss: summed loss since the last row of the curve.
        weight: summed weights since the last row of the curve.
        curve: rows of the loss curve so far.
    """

    step: int = 0
    tokens: int = 0
    loss: float = 0.0
    weight: float = 0.0
    curve: list[LossRow] = field(default_factory=list)


def save_checkpoint(folder: Path, backend: Backend, state: TrainState, fingerprint: str) -> None:
    """Write a state under a temporary name and rename it; then forget older ones. Called on all ranks.

    No random state is saved because none is carried: the order of rows and the dropout of a step are derived from the
    seed and the step.
    """
    name = f"{_PREFIX}{state.step:08d}"
    temporary = folder / f"{name}.tmp"
    if backend.rank == 0:
        shutil.rmtree(temporary, ignore_errors=True)
        temporary.mkdir(parents=True)
    backend.barrier()
    backend.save(temporary)
    backend.barrier()
    if backend.rank == 0:
        header = {"fingerprint": fingerprint, "ranks": backend.ranks, "state": asdict(state)}
        write_json(temporary / "state.json", header)
        _sync(temporary)
        temporary.rename(folder / name)
        _sync_entry(folder)
        for old in folder.glob(f"{_PREFIX}*"):
            if old.name != name:
                shutil.rmtree(old)
    backend.barrier()


def load_checkpoint(folder: Path, backend: Backend, fingerprint: str) -> TrainState:
    """Restore the newest complete state, or return a fresh one. Called on all ranks.

    Raises:
        SettingsError: the state was saved by another number of ranks.
        StorageError: the state belongs to other data, settings or model.
    """
    found = sorted(path for path in folder.glob(f"{_PREFIX}*") if path.suffix != ".tmp")
    if not found:
        return TrainState()
    newest = found[-1]
    header: dict[str, Any] = read_json(newest / "state.json")
    if header["ranks"] != backend.ranks:
        raise SettingsError(
            f"ranks: {newest} was saved by {header['ranks']} ranks and this run has {backend.ranks}; resume with "
            f"ranks={header['ranks']}, or delete {folder} to start again"
        )
    if header["fingerprint"] != fingerprint:
        raise StorageError(f"{newest}: belongs to a run with other data, settings or model; delete {folder}")
    backend.load(newest)
    state = TrainState(**header["state"])
    state.curve = [LossRow(**row) for row in header["state"]["curve"]]
    return state


def _sync(folder: Path) -> None:
    """Force a folder's files to disk, so that a complete name never has missing contents."""
    for path in sorted(folder.rglob("*")):
        if path.is_file():
            with path.open("rb") as file:
                os.fsync(file.fileno())


def _sync_entry(folder: Path) -> None:
    """Force a folder's list of names to disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
