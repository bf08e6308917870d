"""The settings that every training run has, whatever is optimised; an objective adds its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from qlass.settings import BelowOne, Count, NonNegative, Positive, Ratio, Section, Updates


class LoraSettings(Section):
    """Low-rank adapters instead of full fine-tuning (Hu et al., arXiv 2106.09685)."""

    r: Count
    """Rank."""
    alpha: Positive
    """Scale; the update is multiplied by alpha / r."""
    dropout: BelowOne
    """Of the adapter's input."""


class TrainSettings(Section):
    """Settings of one training run."""

    epochs: Count
    """Passes over the rows."""
    batch_size: Count
    """Rows per optimizer step, over all ranks together; a small model learns from many steps, not from large ones."""
    lr: Positive
    """Peak learning rate."""
    warmup_ratio: Ratio
    """Share of all steps over which the rate rises; then it falls as a cosine to zero."""
    weight_decay: NonNegative
    """Of AdamW, on all parameters."""
    adam_beta2: BelowOne
    """How long AdamW remembers squared gradients; runs of a thousand steps want less than 0.999."""
    max_grad_norm: Positive
    """Gradients of one step are scaled down to this norm."""
    precision: Literal["auto", "fp32", "bf16"]
    """Of the forward pass: fp32, bf16 (autocast over fp32 weights), or auto (bf16 where it pays)."""
    backend: Literal["deepspeed", "torch"]
    """torch is the plain reference, in one process."""
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    """What DeepSpeed partitions over the ranks."""
    ranks: Count
    """Processes of the DeepSpeed launcher."""
    log_every: Updates
    """Between two rows of the loss curve."""
    checkpoint_every: Updates
    """Between two resumable states."""

    @field_validator("ranks")
    @classmethod
    def _one_with_torch(cls, ranks: int, info: ValidationInfo) -> int:
        if ranks > 1 and info.data.get("backend") == "torch":
            raise ValueError("1 with backend torch; use deepspeed for more")
        return ranks
