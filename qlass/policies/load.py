"""Build the local policy and the local QNet from the folders that stages write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from qlass.policies.llama import LlamaTrunk
from qlass.policies.local import LocalPolicy, LocalValueFunction
from qlass.prompts import load_chat_format
from qlass.qnet.model import load_qnet
from qlass.training.models import load_policy
from qlass.training.precision import pick_device


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How local models are run.

    Attributes:
        chat_format: how messages become tokens.
        max_length: tokens of prompt and reply together.
        max_new_tokens: tokens of one reply.
        device: auto, cpu or cuda.
        cache_mb: megabytes of keys and values that each model keeps between calls.
        precision: of matrix products; auto is bf16 where the hardware has it, else fp32.
    """

    chat_format: str
    max_length: int
    max_new_tokens: int
    device: str = "auto"
    cache_mb: int = 384
    precision: Literal["auto", "fp32", "bf16"] = "auto"


def local_policy(folder: Path, settings: LocalSettings, normalise: Callable[[str], str]) -> LocalPolicy:
    """Load a policy folder (see `qlass.training.models`) as a LocalPolicy.

    Args:
        folder: of the policy.
        settings: how to run it.
        normalise: the environment's normal form of an action.
    """
    device = pick_device(settings.device)
    model, tokenizer = load_policy(folder, device=device)
    causal = cast("Any", model)
    return LocalPolicy(
        LlamaTrunk(causal.model, dtype=_dtype(device, settings.precision), cache_bytes=settings.cache_mb << 20),
        causal.lm_head.weight,
        load_chat_format(settings.chat_format, tokenizer),
        lambda ids: str(tokenizer.decode(ids)),
        normalise,
        max_length=settings.max_length,
        max_new_tokens=settings.max_new_tokens,
    )


def local_qnet(folder: Path, settings: LocalSettings) -> LocalValueFunction:
    """Load a QNet folder as a LocalValueFunction."""
    device = pick_device(settings.device)
    qnet, tokenizer = load_qnet(folder)
    qnet.to(device)
    return LocalValueFunction(
        LlamaTrunk(
            cast("Any", qnet.backbone), dtype=_dtype(device, settings.precision), cache_bytes=settings.cache_mb << 20
        ),
        qnet.values,
        load_chat_format(settings.chat_format, tokenizer),
        max_length=settings.max_length,
        room=settings.max_new_tokens,
    )


def _dtype(device: torch.device, precision: Literal["auto", "fp32", "bf16"]) -> torch.dtype:
    """Resolve `auto`: bf16 halves what decoding reads, but is very slow on processors without it.

    The processor is asked, not timed: on a busy machine two workers of one run could measure different answers.
    """
    has_bf16 = device.type == "cuda" or bool(torch.cpu.get_capabilities().get("avx512_bf16"))
    fast = precision == "bf16" or (precision == "auto" and has_bf16)
    return torch.bfloat16 if fast else torch.float32
