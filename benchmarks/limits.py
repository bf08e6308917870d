"""How near the models' work comes to what the processor can do; here a ratio is a share of the limit, at most 1.

vs_limit (encoding)   whole conversations through `LlamaTrunk.prefill`, nothing cached
vs_limit (training)   forward and backward passes of SFT

The limit is a product of 512 x 512 matrices in the precision that pays, measured in the same process. A token costs two
operations per weight of the layers going forward and four more going back; attention and logits are not counted.
"""

from __future__ import annotations

from typing import Any, cast

import torch

from benchmarks.rows import Row, cpu_seconds
from benchmarks.training import LONGEST, MODEL, Data, one_pass, sft_module
from qlass.policies.llama import LlamaTrunk
from qlass.prompts import history_of
from qlass.training.models import load_model

SIDE = 512
PRODUCTS = 200


def product_rate(dtype: torch.dtype) -> float:
    """Return the floating-point operations per CPU second of a matrix product."""
    left, right = torch.ones(SIDE, SIDE, dtype=dtype), torch.ones(SIDE, SIDE, dtype=dtype)

    def work() -> None:
        for _ in range(PRODUCTS):
            torch.mm(left, right)

    work()
    return 2 * SIDE**3 * PRODUCTS / min(cpu_seconds(work) for _ in range(5))


def rows(trajectories: int = 24, rounds: int = 3) -> list[Row]:
    """Measure encoding and training."""
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
    encoding = []
    for _ in range(rounds):
        trunk = LlamaTrunk(cast("Any", load_model(MODEL)).model, dtype=dtype, cache_bytes=0)
        encoding.append(cpu_seconds(lambda: [trunk.prefill([prompt]) for prompt in prompts]))  # noqa: B023
    trained = data.sft_rows()
    training = min(cpu_seconds(lambda: one_pass(module, trained)) for _ in range(rounds))
    encoded, learnt = sum(len(prompt.ids) for prompt in prompts), sum(len(row.ids) for row in trained)
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
        )
    ]
