"""The one kind of training data: token ids and what is supervised where. SFT and QNet differ in the targets only."""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from safetensors.numpy import load_file, save_file

from qlass.errors import DataError
from qlass.jsonl import replacing


@dataclass(frozen=True, slots=True, eq=False)
class TrainRow:
    """One conversation and its supervised positions.

    Nothing after the last position that matters is kept: a causal model never looks ahead.

    Attributes:
        ids: (T,) int64 token ids.
        positions: (N,) int64, ascending indices into `ids` whose hidden states are read.
        targets: (N,) float64: the next token's id (SFT) or the Q-value (QNet).
        weights: (N,) float64, positive.
        observed: (K,) int64, ascending and positive: tokens that the model is also to predict from those before them; together
            they weigh as much as all supervised positions. None: this training has no such part, in any of its rows.
    """

    ids: NDArray[np.int64]
    positions: NDArray[np.int64]
    targets: NDArray[np.float64]
    weights: NDArray[np.float64]
    observed: NDArray[np.int64] | None = None


def make_row(
    ids: Sequence[int],
    positions: Sequence[int],
    targets: Sequence[float],
    weights: Sequence[float] | None = None,
    observed: Sequence[int] | None = None,
) -> TrainRow:
    """Build a row and cut what follows its last position; weights default to 1.

    Raises:
        DataError: nothing is supervised, or the lists do not fit each other.
    """
    weights = [1.0] * len(positions) if weights is None else weights
    if not positions or len(positions) != len(targets) or len(positions) != len(weights):
        raise DataError(
            f"{len(positions)} positions, {len(targets)} targets, {len(weights)} weights: not a training row"
        )
    if min(positions) < 0 or max(positions) >= len(ids):
        raise DataError(f"supervised positions {min(positions)} to {max(positions)} in a row of {len(ids)} tokens")
    return TrainRow(
        np.asarray(ids[: max([*positions, *(observed or ())]) + 1], np.int64),
        np.asarray(positions, np.int64),
        np.asarray(targets, np.float64),
        np.asarray(weights, np.float64),
        None if observed is None else np.asarray(observed, np.int64),
    )


_COLUMNS = ("ids", "positions", "targets", "weights")


def save_rows(path: Path, rows: Sequence[TrainRow]) -> None:
    """Write rows as safetensors: each column joined, with the lengths beside it."""
    with replacing(path) as temporary:
        save_file(_columns(rows), temporary)


def load_rows(path: Path) -> list[TrainRow]:
    """Read what `save_rows` wrote."""
    columns = load_file(path)
    tokens, places = np.cumsum(columns["row_tokens"])[:-1], np.cumsum(columns["row_positions"])[:-1]
    parts = [np.split(columns[name], tokens if name == "ids" else places) for name in _COLUMNS]
    if "observed" in columns:
        parts.append(np.split(columns["observed"], np.cumsum(columns["row_observed"])[:-1]))
    return [TrainRow(*values) for values in zip(*parts, strict=True)]


def rows_digest(rows: Sequence[TrainRow]) -> str:
    """Return a hash of all rows in their order; part of what identifies a training run."""
    digest = hashlib.blake2b(digest_size=16)
    for values in _columns(rows).values():
        digest.update(values.tobytes())
    return digest.hexdigest()


def _columns(rows: Sequence[TrainRow]) -> dict[str, NDArray[np.generic]]:
    columns: dict[str, NDArray[np.generic]] = {
        name: np.concatenate([getattr(row, name) for row in rows]) for name in _COLUMNS
    }
    columns["row_tokens"] = np.asarray([len(row.ids) for row in rows], np.int64)
    columns["row_positions"] = np.asarray([len(row.positions) for row in rows], np.int64)
    observed = [row.observed for row in rows if row.observed is not None]
    if observed:
        columns["observed"] = np.concatenate(observed)
        columns["row_observed"] = np.asarray([len(part) for part in observed], np.int64)
    return columns
