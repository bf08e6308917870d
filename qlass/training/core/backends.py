"""How gradients become weights: one interface, plain torch here, DeepSpeed in `deepspeed_engine`."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Protocol

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from qlass.errors import StorageError
from qlass.training.core.collate import MicroBatch
from qlass.training.core.settings import TrainSettings

LOG = logging.getLogger(__name__)


class Backend(Protocol):
    """Accumulates gradients over micro-batches and applies them.

    Attributes:
        rank: this process, from 0.
        ranks: number of processes.
        device: where micro-batches are computed.
    """

    rank: int
    ranks: int
    device: torch.device

    def accumulate(self, batch: MicroBatch, normaliser: float) -> Tensor:
        """Add the gradients of `loss / normaliser` for a batch on the CPU; return the summed loss (a detached scalar)."""

    def step(self, lr: float) -> None:
        """Clip, update the weights with this learning rate, and forget the gradients."""

    def total(self, value: Tensor) -> float:
        """Sum a scalar over all ranks."""

    def barrier(self) -> None:
        """Wait for all ranks."""

    def save(self, folder: Path) -> None:
        """Write weights and optimizer state into an existing folder (called on all ranks)."""

    def load(self, folder: Path) -> None:
        """Restore what `save` wrote, exactly (called on all ranks)."""

    def weights(self) -> dict[str, Tensor]:
        """Return the trained parameters on the CPU, whole; empty on ranks other than 0 (called on all ranks)."""


def make_backend(module: nn.Module, settings: TrainSettings, device: torch.device) -> Backend:
    """Build the backend of `settings.backend` around a module whose forward pass returns a summed loss."""
    module.to(device).train()
    if settings.backend == "torch":
        return TorchBackend(module, settings, device)
    from qlass.training.core.deepspeed_backend import DeepSpeedBackend

    return DeepSpeedBackend(module, settings, device)


def make_optimizer(module: nn.Module, settings: TrainSettings) -> torch.optim.AdamW:
    """Build AdamW over the trainable parameters; the loop sets the learning rate before each step."""
    trained = [parameter for parameter in module.parameters() if parameter.requires_grad]
    betas = (0.9, settings.adam_beta2)
    return torch.optim.AdamW(trained, lr=settings.lr, betas=betas, weight_decay=settings.weight_decay, fused=True)


class TorchBackend:
    """The plain reference: one process, one copy of everything."""

    def __init__(self, module: nn.Module, settings: TrainSettings, device: torch.device) -> None:
        """Wrap a module that is already on its device."""
        self.rank, self.ranks, self.device = 0, 1, device
        self._module, self._max_grad_norm = module, settings.max_grad_norm
        self._trained = {name: value for name, value in module.named_parameters() if value.requires_grad}
        self._optimizer = make_optimizer(module, settings)

    def accumulate(self, batch: MicroBatch, normaliser: float) -> Tensor:
        """See `Backend`."""
        loss: Tensor = self._module(*batch.inputs(self.device))
        (loss / normaliser).backward()
        return loss.detach()

    def step(self, lr: float) -> None:
        """See `Backend`."""
        nn.utils.clip_grad_norm_(self._trained.values(), self._max_grad_norm)
        for group in self._optimizer.param_groups:
            group["lr"] = lr
        self._optimizer.step()
        self._optimizer.zero_grad()

    def total(self, value: Tensor) -> float:
        """See `Backend`."""
        return float(value)

    def barrier(self) -> None:
        """See `Backend`: one process never waits."""

    def save(self, folder: Path) -> None:
        """See `Backend`."""
        save_file(
            {name: value.detach().contiguous() for name, value in self._trained.items()},
            folder / "weights.safetensors",
        )
        torch.save(self._optimizer.state_dict(), folder / "optimizer.pt")

    def load(self, folder: Path) -> None:
        """See `Backend`."""
        saved = load_file(folder / "weights.safetensors", device=str(self.device))
        if saved.keys() != self._trained.keys():
            raise StorageError(f"{folder}: holds other parameters than this model; delete the folder and start again")
        with torch.no_grad():
            for name, value in self._trained.items():
                value.copy_(saved[name])
        # weights_only: nothing but tensors and plain containers is unpickled.
        self._optimizer.load_state_dict(
            torch.load(folder / "optimizer.pt", map_location=self.device, weights_only=True)
        )

    def weights(self) -> dict[str, Tensor]:
        """See `Backend`."""
        return {name: value.detach().cpu().clone() for name, value in self._trained.items()}
