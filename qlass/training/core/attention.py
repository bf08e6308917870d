"""Causal attention for training on a CPU: queries in blocks, so that the masked half is hardly computed.

torch's own CPU kernel computes the whole square and gains nothing from bf16. Measured on one core (hidden 256, 4 heads,
1 key-value head, bf16 autocast, forward and backward): 1.13 to 1.23 times the tokens per second of `sdpa` for rows of
500 to 1500 tokens, 1.1 to 2 times those of `eager`; equal to `sdpa` in fp32.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel

NAME = "qlass_blocked"
BLOCK = 128
"""Queries per block; 64 and 256 were slower."""


def choose_attention(model: PreTrainedModel, device: torch.device) -> None:
    """Let the model compute attention in blocks on a CPU, and with torch's fused kernels elsewhere."""
    blocked = device.type == "cpu" and model.config.model_type == "llama"
    model.set_attn_implementation(NAME if blocked else "sdpa")


def blocked_attention(  # noqa: PLR0917  (transformers decides)
    module: torch.nn.Module,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,  # noqa: ARG001
    scaling: float,
    dropout: float = 0.0,
    **_: Any,
) -> tuple[Tensor, None]:
    """Compute causal attention over rows that are padded on the right only.

    Args:
        module: the attention layer (unused).
        query: (B, H, T, D).
        key: (B, K, T, D); K divides H.
        value: (B, K, T, D).
        attention_mask: always None, see `_no_mask`.
        scaling: factor of the scores.
        dropout: of the attention weights.

    Returns:
        (B, T, H, D), and None for the weights.
    """
    B, H, T, D = query.shape
    K = key.shape[1]
    group = H // K
    query = (query * scaling).reshape(B * K, group, T, D)
    key, value = key.reshape(B * K, T, D), value.reshape(B * K, T, D)
    transposed = key.transpose(1, 2)
    future = torch.ones(BLOCK, BLOCK, dtype=torch.bool, device=query.device).triu(1)
    blocks = []
    for start in range(0, T, BLOCK):
        end = min(start + BLOCK, T)
        size = end - start
        # All heads of one key-value head are query rows of one product.
        scores = torch.bmm(query[:, :, start:end].reshape(B * K, group * size, D), transposed[:, :, :end])
        scores = scores.view(B * K, group, size, end)
        diagonal = scores[..., start:].masked_fill(future[:size, :size], float("-inf"))
        scores = torch.cat([scores[..., :start], diagonal], dim=-1) if start else diagonal
        weights = torch.softmax(scores, dim=-1, dtype=torch.float32).to(value.dtype)
        if dropout:
            weights = torch.nn.functional.dropout(weights, dropout, module.training)
        blocks.append(torch.bmm(weights.view(B * K, group * size, end), value[:, :end]).view(B * K, group, size, D))
    out = torch.cat(blocks, dim=2).view(B, H, T, D)
    return out.transpose(1, 2).contiguous(), None


def _no_mask(*_: Any, **__: Any) -> None:
    """Build no mask: attention is causal by construction, and padding on the right is never looked at."""


AttentionInterface.register(NAME, blocked_attention)
AttentionMaskInterface.register(NAME, _no_mask)
