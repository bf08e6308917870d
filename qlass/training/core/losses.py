"""What is minimised, as a module: one forward pass from a micro-batch to a summed loss.

It is a module because DeepSpeed wraps modules: ZeRO-3 fetches parameters in the hooks of whatever is called.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qlass.models.precision import autocast
from qlass.models.qnet import QNet


class LanguageLoss(nn.Module):
    """Cross-entropy of the next token, logits computed on supervised positions only."""

    def __init__(self, model: nn.Module, precision: Literal["fp32", "bf16"]) -> None:
        """Wrap a causal language model (or its peft wrapper)."""
        super().__init__()
        self.model, self.precision = model, precision

    def forward(self, ids: Tensor, rows: Tensor, positions: Tensor, targets: Tensor, weights: Tensor) -> Tensor:
        """Return the weighted sum (not the mean) of the losses; arguments as in `MicroBatch`."""
        # transformers keeps the same positions of every row: for several rows, all positions that any of them needs.
        union, columns = torch.unique(positions, return_inverse=True)  # (U,), (N,)
        with autocast(ids.device, self.precision):
            output = self.model(input_ids=ids, logits_to_keep=union, use_cache=False)
        logits = cast("Tensor", output.logits)[rows, columns]  # (N, V)
        losses = functional.cross_entropy(logits.float(), targets.long(), reduction="none")  # (N,)
        return (losses * weights).sum()


class ValueLoss(nn.Module):
    """Weighted squared error of Q-values at the supervised positions, and the cross-entropy of the observations."""

    def __init__(
        self,
        qnet: QNet,
        precision: Literal["fp32", "bf16"],
        lm_head: nn.Module | None = None,
        observation_loss: float = 0.0,
    ) -> None:
        """Wrap a QNet.

        Args:
            qnet: what is trained.
            precision: of the trunk.
            lm_head: maps hidden states to logits; needed where batches have observations to predict, and not kept afterwards.
            observation_loss: weight of their loss, the squared error's being 1.
        """
        super().__init__()
        self.qnet, self.precision, self.lm_head, self.observation_loss = qnet, precision, lm_head, observation_loss

    def forward(
        self, ids: Tensor, rows: Tensor, positions: Tensor, targets: Tensor, weights: Tensor, *observed: Tensor
    ) -> Tensor:
        """Return the weighted sum (not the mean) of the losses; arguments as in `MicroBatch.inputs`."""
        with autocast(ids.device, self.precision):
            states = self.qnet.states(ids)  # (B, T, H)
            values = self.qnet.values(states[rows, positions])  # (N,)
            loss: Tensor = (weights * (values - targets.float()).square()).sum()
            if self.lm_head is None or not observed:
                return loss
            row, position, weight = observed  # (K,) each
            logits = self.lm_head(states[row, position - 1])  # (K, V)
        entropies = functional.cross_entropy(logits.float(), ids[row, position], reduction="none")
        return loss + self.observation_loss * (weight * entropies).sum()
