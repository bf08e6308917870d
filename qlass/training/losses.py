"""What is minimised, as a module: one forward pass from a micro-batch to a summed loss.

It is a module because DeepSpeed wraps modules: ZeRO-3 fetches parameters in the hooks of whatever is called.
"""

from __future__ import annotations

from typing import Literal, cast

import torch
from torch import Tensor, nn
from torch.nn import functional

from qlass.models.precision import autocast


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
