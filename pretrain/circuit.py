"""Start the model with an induction circuit: two attention heads that copy what followed the last time.

Copying names out of the context is what a policy for text environments needs most, and what a small model learns last:
from a usual random start, four million tokens of lists to repeat left exact copying at 0 %. Started from the circuit
below, the same model passes 40 % after a quarter of a million (`pretrain/README.md` has the numbers). It is a
starting point only: every weight is trained.

The circuit is the one that Olsson et al. (arXiv 2209.11895) found in trained models: a head of the first layer looks at
the previous token and writes its code beside each token; a head of the second layer looks for positions whose code is
that of the current token, and copies what stands there. Starting attention from a useful structure follows Trockman and
Kolter (arXiv 2305.09828).
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import torch
from transformers import LlamaForCausalLM

SHARPNESS = 2.0
"""Size of the constant queries and keys of the first layer: large enough to single out the previous token."""
MATCH = 4.0
"""Size of the second layer's queries and keys: large enough to single out an equal token."""


class Codes(NamedTuple):
    """Tokens that start alike; all others start unrelated.

    Attributes:
        kin: (token, part, ...): a token starts as the sum of its parts, itself among them where it has a share of its
            own, scaled to the size of one.
        numbers: value by token: sizes near each other start alike, so that a comparison is seen from the start.
    """

    kin: Sequence[tuple[int, ...]] = ()
    numbers: Mapping[int, int] = {}


@torch.no_grad()
def install_induction(model: LlamaForCausalLM, codes: Codes) -> None:
    """Overwrite the start of a freshly built model; its embeddings must not be tied.

    The residual stream (hidden,) is used as: 0 a constant, 1 to head_dim the token's code, the last head_dim the code of
    the token before. Embeddings have unit variance, so that steps of Adam do not wash the circuit away; the other
    output projections start at zero.
    """
    config = model.config
    width = config.hidden_size // config.num_attention_heads
    half = width // 2
    code, before = slice(1, 1 + width), slice(config.hidden_size - width, config.hidden_size)
    embedding = model.model.embed_tokens.weight
    embedding.normal_()
    if codes.numbers:
        tokens = torch.tensor(list(codes.numbers))
        sizes = _sizes(list(codes.numbers.values()), config.hidden_size)
        embedding[tokens] = (embedding[tokens] + sizes) / math.sqrt(2)
    for token, *parts in codes.kin:
        embedding[token] = embedding[parts].sum(0) / math.sqrt(len(parts))
    embedding[:, 0] = 6.0
    model.lm_head.weight.copy_(0.02 * embedding)
    model.lm_head.weight[:, 0] = 0.0
    embedding[:, before] = 0.0
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.zero_()
        layer.mlp.down_proj.weight.zero_()
    first, second = model.model.layers[0].self_attn, model.model.layers[1].self_attn
    for attention in (first, second):
        for projection in (attention.q_proj.weight[:width], attention.k_proj.weight, attention.v_proj.weight):
            projection.mul_(0.1)
        attention.v_proj.weight[:, code] += torch.eye(width)
    # Constant queries and keys, the keys turned by one position: their product is largest at distance one.
    frequencies = model.model.rotary_emb.inv_freq.float()
    first.q_proj.weight[:half, 0] = SHARPNESS
    first.k_proj.weight[:half, 0] = SHARPNESS * torch.cos(frequencies)
    first.k_proj.weight[half:width, 0] = SHARPNESS * torch.sin(frequencies)
    first.o_proj.weight[before, :width] += torch.eye(width)
    # Codes are compared in the dimensions that the rotary embedding hardly turns over a conversation.
    still = torch.cat((torch.arange(half // 2, half), torch.arange(half + half // 2, width)))
    compared = torch.arange(len(still))
    second.q_proj.weight[still, code.start + compared] += MATCH
    second.k_proj.weight[still, before.start + compared] += MATCH
    second.o_proj.weight[code, :width] += 4.0 * torch.eye(width)


def _sizes(values: Sequence[int], width: int) -> torch.Tensor:
    """Return (N, width) unit-variance waves over the logarithms of N numbers, long waves to short ones.

    The long ones order all numbers; the short ones tell neighbours apart. (Random Fourier features: Rahimi and Recht,
    2007.)
    """
    places = torch.tensor(values).add(1).log()[:, None]  # (N, 1)
    frequencies = torch.logspace(-0.5, 2, width)
    return math.sqrt(2) * torch.cos(frequencies * places + 2 * math.pi * torch.rand(width))
