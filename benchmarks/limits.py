"""How near the models' work comes to what the processor can do; here a ratio is a share of a limit.

vs_limit (encoding)          whole conversations through `LlamaTrunk.prefill`, nothing cached
vs_limit (training)          forward and backward passes of SFT
vs_limit (drawing)           several replies behind each of some prefixes, token by token, through `LlamaTrunk.extend`
vs_limit (drawing, memory)   the same, counted in bytes

The limit is a product of 512 x 512 matrices in the precision that pays, measured in the same process. A token costs two
operations per weight of the layers going forward and four more going back; attention and logits are not counted. In bytes,
each token of all replies reads the layers' weights and the keys and values of the prefixes once; the limit is the
copying of a tensor that no cache holds. A model that a cache holds may exceed that one.
"""

from __future__ import annotations

from typing import Any, cast

import torch

from benchmarks.rows import Row, cpu_seconds
from benchmarks.training import LONGEST, MODEL, Data, one_pass, sft_module
from qlass.models.folders import load_model
from qlass.policies.llama import LlamaTrunk
from qlass.prompts import Prompt, history_of

SIDE = 512
PRODUCTS = 200
COPIED = 64 * 2**20
"""Numbers (fp32) of the copied tensor."""

STATES, REPLIES, TOKENS = 8, 4, 32
"""What is drawn: tokens of each of some replies to each of at most so many states."""


def product_rate(dtype: torch.dtype) -> float:
    """Return the floating-point operations per CPU second of a matrix product."""
    left, right = torch.ones(SIDE, SIDE, dtype=dtype), torch.ones(SIDE, SIDE, dtype=dtype)

    def work() -> None:
        for _ in range(PRODUCTS):
            torch.mm(left, right)

    work()
    return 2 * SIDE**3 * PRODUCTS / min(cpu_seconds(work) for _ in range(5))


def copy_rate() -> float:
    """Return the bytes per CPU second that are read and written where a large tensor is copied."""
    source, target = torch.ones(COPIED), torch.ones(COPIED)
    return 2 * 4 * COPIED / min(cpu_seconds(lambda: target.copy_(source)) for _ in range(5))


def drawing_seconds(trunk: LlamaTrunk, prompts: list[Prompt]) -> float:
    """Return the CPU seconds in which replies to the prompts grow by `TOKENS` tokens each; the prompts are not counted."""
    space, _, _ = trunk.prefill(prompts)
    ids = torch.ones(len(prompts), REPLIES, 1, dtype=torch.long)

    def work() -> None:
        for _ in range(TOKENS):
            trunk.extend(space, ids)

    return cpu_seconds(work)


def rows(trajectories: int = 24, rounds: int = 3) -> list[Row]:
    """Measure encoding, training and drawing."""
    data, module = Data(0, trajectories), sft_module()
    layers: Any = module.model.model.layers
    weights = sum(value.numel() for layer in layers for value in layer.parameters())
    precision = module.precision
    dtype = torch.bfloat16 if precision == "bf16" else torch.float32
    limit = product_rate(dtype)
    prompts = [
        data.chat.prompt(history_of(data.definition.instruction, one.observation, one.steps), LONGEST)
        for one in data.trajectories
        if one.steps
    ]
    states = prompts[:STATES]
    encoding, drawing = [], []
    for _ in range(rounds):
        trunk = LlamaTrunk(cast("Any", load_model(MODEL)).model, dtype=dtype, cache_bytes=0)
        encoding.append(cpu_seconds(lambda: [trunk.prefill([prompt]) for prompt in prompts]))  # noqa: B023
        drawing.append(drawing_seconds(trunk, states))
    trained = data.sft_rows()
    training = min(cpu_seconds(lambda: one_pass(module, trained)) for _ in range(rounds))
    encoded, learnt = sum(len(prompt.ids) for prompt in prompts), sum(len(row.ids) for row in trained)
    drawn, kept = len(states) * REPLIES * TOKENS, sum(len(prompt.ids) for prompt in states)
    cached = 2 * trunk.layers * trunk.kv_heads * trunk.head_dim * kept  # keys and values of the prefixes
    moved = TOKENS * dtype.itemsize * (weights + cached) / min(drawing)
    memory = copy_rate()
    unit = "billion operations per CPU second"
    return [
        Row.of(
            f"vs_limit ({name})",
            factor * weights * tokens / seconds / 1e9,
            limit / 1e9,
            unit,
            f"{tokens:,} tokens at {tokens / seconds:,.0f} per CPU second, {weights:,} weights; limit: {precision} products",
        )
        for name, factor, tokens, seconds in (
            ("encoding", 2, encoded, min(encoding)),
            ("training", 6, learnt, training),
            ("drawing", 2, drawn, min(drawing)),
        )
    ] + [
        Row.of(
            "vs_limit (drawing, memory)",
            moved / 1e9,
            memory / 1e9,
            "billion bytes per CPU second",
            f"{REPLIES} replies behind each of {len(states)} prefixes, {kept:,} tokens in all; limit: copying {COPIED * 4 // 2**20} MiB",
        )
    ]
