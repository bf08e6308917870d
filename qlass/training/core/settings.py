"""The settings that every training run has, whatever is optimised; an objective adds its own."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, ValidationInfo, field_validator

from qlass.settings import (
    BelowOne,
    Dimensions,
    NonNegative,
    Passes,
    Positive,
    Processes,
    Ratio,
    Rows,
    Section,
    Updates,
)


class LoraSettings(Section):
    """Low-rank adapters instead of full fine-tuning (Hu et al., arXiv 2106.09685)."""

    r: Dimensions
    """Rank of the adapters."""
    alpha: Positive
    """Scale; the update is multiplied by alpha / r."""
    dropout: BelowOne
    """Share of an adapter's input that is dropped in training."""


class TrainSettings(Section):
    """Settings of one training run."""

    epochs: Passes
    """Passes over all rows."""
    batch_size: Rows
    """Rows per optimizer step, over all ranks together; a row is a conversation: a trajectory, or a path of a tree. A
    small model learns from many steps, not from large ones."""
    lr: Positive
    """Peak learning rate."""
    warmup_ratio: Ratio
    """Share of all steps over which the learning rate rises; then it falls as a cosine to zero."""
    weight_decay: NonNegative
    """Weight decay of AdamW, on all parameters that are trained."""
    adam_beta2: BelowOne
    """How long AdamW remembers squared gradients; runs of a thousand steps want less than 0.999."""
    max_grad_norm: Positive
    """Norm to which the gradients of one step are scaled down where theirs is larger."""
    precision: Literal["auto", "fp32", "bf16"]
    """Number format of the forward pass: `fp32`, `bf16` (autocast over fp32 weights), or `auto` (bf16 where the
    processor has it)."""
    backend: Literal["deepspeed", "torch"]
    """What runs the training: `deepspeed`, or `torch`, the plain reference in one process."""
    zero_stage: Annotated[int, Field(ge=0, le=3)]
    """What DeepSpeed partitions over the ranks (ZeRO): 0 nothing, 1 the optimizer's state, 2 the gradients as well, 3
    the weights as well."""
    ranks: Processes
    """Processes of the DeepSpeed launcher; 1 with backend torch."""
    log_every: Updates
    """Distance between two rows of the loss curve."""
    checkpoint_every: Updates
    """Distance between two states from which an interrupted training goes on."""

    @field_validator("ranks")
    @classmethod
    def _one_with_torch(cls, ranks: int, info: ValidationInfo) -> int:
        if ranks > 1 and info.data.get("backend") == "torch":
            raise ValueError("1 with backend torch; use deepspeed for more")
        return ranks
