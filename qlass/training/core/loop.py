"""The one training loop, for SFT and for the QNet."""

from __future__ import annotations

import logging
import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import torch

from qlass.errors import SettingsError
from qlass.seeds import derive_seed
from qlass.training.core.backends import Backend
from qlass.training.core.batches import epoch_batches, micro_batches
from qlass.training.core.checkpoint import LossRow, TrainState, load_checkpoint, save_checkpoint
from qlass.training.core.collate import collate
from qlass.training.core.rows import TrainRow
from qlass.training.core.settings import TrainSettings

LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class MicroLimits:
    """How much one forward pass may hold.

    Attributes:
        tokens: padding included; a longer row is alone.
        rows: at most.
    """

    tokens: int
    rows: int


CPU_LIMITS = MicroLimits(tokens=2400, rows=4)
"""Measured on one core: four rows of 300 tokens train 1.2 times faster than one at a time, long rows hardly faster."""

CUDA_LIMITS = MicroLimits(tokens=16384, rows=64)


def learning_rate(step: int, total: int, peak: float, warmup_ratio: float) -> float:
    """Return the rate of a step in [0, total): linear up to `peak` over the warm-up, then a cosine towards zero."""
    warmup = math.ceil(total * warmup_ratio)
    if step < warmup:
        return peak * (step + 1) / warmup
    return peak * 0.5 * (1.0 + math.cos(math.pi * (step - warmup) / max(1, total - warmup)))


def train(
    backend: Backend,
    rows: Sequence[TrainRow],
    settings: TrainSettings,
    *,
    seed: int,
    folder: Path,
    fingerprint: str,
    limits: MicroLimits | None = None,
    together: int = 1,
) -> list[LossRow]:
    """Train to the end, from the newest checkpoint where there is one.

    Interrupted at any moment and started again, it ends with the same weights and the same curve.

    Args:
        backend: holds the model.
        rows: all of them, on every rank.
        settings: of the run.
        seed: decides order and dropout.
        folder: of the checkpoints; on a file system that all ranks share.
        fingerprint: identifies data, settings and model; a checkpoint with another one is refused.
        limits: of a micro-batch; by default those of the device.
        together: consecutive rows that form a group, see `Objective`; `settings.batch_size` counts groups.

    Returns:
        The loss curve.

    Raises:
        SettingsError: the loss became infinite or NaN.
    """
    folder.mkdir(parents=True, exist_ok=True)
    limits = limits or (CPU_LIMITS if backend.device.type == "cpu" else CUDA_LIMITS)
    per_epoch = math.ceil(len(rows) / together / settings.batch_size)
    total = per_epoch * settings.epochs
    state = load_checkpoint(folder, backend, fingerprint)
    batches: list[list[int]] = []
    lengths = [len(row.ids) for row in rows]
    for step in range(state.step, total):
        epoch, index = divmod(step, per_epoch)
        if index == 0 or not batches:
            batches = epoch_batches(lengths, settings.batch_size, seed, epoch, together)
        lr = learning_rate(step, total, settings.lr, settings.warmup_ratio)
        with torch.random.fork_rng(devices=[backend.device] if backend.device.type == "cuda" else []):
            torch.manual_seed(derive_seed(seed, "dropout", step, backend.rank))
            _one_step(
                backend, rows, batches[index], lr, lengths=lengths, limits=limits, state=state, together=together
            )
        state.step = step + 1
        if state.step % settings.log_every == 0 or state.step == total:
            _log(backend, state, lr, per_epoch, total)
        if state.step % settings.checkpoint_every == 0 and state.step < total:
            save_checkpoint(folder, backend, state, fingerprint)
    return state.curve


def _one_step(
    backend: Backend,
    rows: Sequence[TrainRow],
    batch: list[int],
    lr: float,
    *,
    lengths: Sequence[int],
    limits: MicroLimits,
    state: TrainState,
    together: int,
) -> None:
    """Run one optimizer step; the loss is normalised by the supervised weight of the whole batch, over all ranks."""
    weight = float(sum(rows[number].weights.sum() for number in batch))
    loss = torch.zeros((), device=backend.device)
    shortest = min(batch, key=lengths.__getitem__) // together * together
    idle = range(shortest, shortest + together)
    for chunk in micro_batches(batch, lengths, limits.tokens, limits.rows, backend.rank, backend.ranks, together):
        # A rank that has nothing left takes part with rows that weigh nothing.
        members = [rows[number] for number in chunk] or [_weightless(rows[number]) for number in idle]
        loss += backend.accumulate(collate(members), weight)
    total = backend.total(loss)
    if not math.isfinite(total):
        raise SettingsError(
            f"lr: the loss became {total} at step {state.step + 1} with lr={lr:.3g}; choose a smaller lr"
        )
    backend.step(lr)
    state.loss += total
    state.weight += weight
    state.tokens += sum(lengths[number] for number in batch)


def _weightless(row: TrainRow) -> TrainRow:
    return replace(row, weights=row.weights * 0.0)


def _log(backend: Backend, state: TrainState, lr: float, per_epoch: int, total: int) -> None:
    """Close a row of the loss curve."""
    row = LossRow(state.step, state.step / per_epoch, state.loss / state.weight, lr, state.tokens)
    state.curve.append(row)
    state.loss = state.weight = 0.0
    if backend.rank == 0:
        LOG.info(
            "train step=%d/%d epoch=%.2f loss=%.4f lr=%.2e tokens=%d",
            row.step,
            total,
            row.epoch,
            row.loss,
            lr,
            row.tokens,
        )
