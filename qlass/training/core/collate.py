"""From rows to the tensors of one forward pass."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from qlass.training.core.rows import TrainRow


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """Rows padded to one length, ready for one forward pass.

    Attributes:
        ids: (B, T) token ids, padded on the right with 0. Needs no mask: no supervised position sees the padding.
        rows: (N,) row of each supervised position.
        positions: (N,) position inside its row.
        targets: (N,) as in `TrainRow`.
        weights: (N,) as in `TrainRow`.
        observed: (rows, positions and weights), each (K,), of the tokens to be predicted; None as in `TrainRow`.
    """

    ids: Tensor
    rows: Tensor
    positions: Tensor
    targets: Tensor
    weights: Tensor
    observed: tuple[Tensor, Tensor, Tensor] | None = None

    def inputs(self, device: torch.device) -> tuple[Tensor, ...]:
        """Return all tensors on `device`, in the order of the fields: what the trained module is called with."""
        main = (self.ids, self.rows, self.positions, self.targets, self.weights)
        return tuple(tensor.to(device) for tensor in (*main, *(self.observed or ())))


def collate(rows: Sequence[TrainRow]) -> MicroBatch:
    """Pad rows to the longest of them."""
    ids = torch.zeros(len(rows), max(len(row.ids) for row in rows), dtype=torch.long)  # (B, T)
    for number, row in enumerate(rows):
        ids[number, : len(row.ids)] = torch.from_numpy(row.ids)
    counts = torch.tensor([len(row.positions) for row in rows])
    return MicroBatch(
        ids=ids,
        rows=torch.repeat_interleave(torch.arange(len(rows)), counts),
        positions=torch.from_numpy(np.concatenate([row.positions for row in rows])),
        targets=torch.from_numpy(np.concatenate([row.targets for row in rows])),
        weights=torch.from_numpy(np.concatenate([row.weights for row in rows])).float(),
        observed=_observed(rows),
    )


def _observed(rows: Sequence[TrainRow]) -> tuple[Tensor, Tensor, Tensor] | None:
    """Join the rows' observed tokens; those of a row share its weight equally."""
    parts = [row.observed for row in rows if row.observed is not None]
    if not parts:
        return None
    counts = torch.tensor([len(part) for part in parts])
    shares = torch.tensor([row.weights.sum() for row in rows]) / counts.clamp(min=1)
    return (
        torch.repeat_interleave(torch.arange(len(rows)), counts),
        torch.from_numpy(np.concatenate(parts)),
        torch.repeat_interleave(shares.float(), counts),
    )
