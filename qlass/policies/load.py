"""Build the local policy and the local QNet from the folders that stages write."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, cast

import torch

from qlass.models.folders import load_checked_tokenizer, load_policy
from qlass.models.precision import pick_device, pick_precision
from qlass.models.qnet import load_qnet, load_value_head
from qlass.policies.llama import LlamaTrunk
from qlass.policies.local import LocalPolicy, LocalValueFunction, ReplyStates
from qlass.prompts import load_chat_format, prompt_limit
from qlass.records import History


@dataclass(frozen=True, slots=True)
class LocalSettings:
    """How local models are run.

    Attributes:
        chat_format: how messages become tokens.
        max_length: tokens of prompt and reply together.
        max_new_tokens: tokens of one reply.
        device: auto, cpu or cuda.
        cache_mb: megabytes of keys and values that each model keeps between calls.
        precision: of matrix products; for auto see `qlass.models.precision.pick_precision`.
        min_p: a sampled token is at least this many times as probable as the likeliest one, in [0, 1).
    """

    chat_format: str
    max_length: int
    max_new_tokens: int
    device: str = "auto"
    cache_mb: int = 384
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    min_p: float = 0.0


def local_models(
    policy: Path, qnet: Path | None, settings: LocalSettings, normalise: Callable[[str], str]
) -> tuple[LocalPolicy, LocalValueFunction | None]:
    """Load a policy folder and a QNet folder; they share one trunk where the QNet was trained on this policy's.

    Args:
        policy: folder of the policy (see `qlass.models.folders`).
        qnet: folder of the QNet (see `qlass.models.qnet`); None where no values are asked for.
        settings: how to run them.
        normalise: the environment's normal form of an action.
    """
    device = pick_device(settings.device)
    model, tokenizer = load_policy(policy, device=device)
    head = load_value_head(qnet, model.base_model) if qnet is not None else None
    states = ReplyStates() if head is not None else None
    trunk = _trunk(model.base_model, settings)
    chat = load_chat_format(settings.chat_format, tokenizer)
    actor = LocalPolicy(
        trunk,
        cast("Any", model).lm_head.weight,
        chat,
        lambda ids: str(tokenizer.decode(ids)),
        normalise,
        max_length=settings.max_length,
        max_new_tokens=settings.max_new_tokens,
        min_p=settings.min_p,
        states=states,
    )
    if head is None:
        return actor, local_qnet(qnet, settings) if qnet is not None else None
    limits = {"max_length": settings.max_length, "room": settings.max_new_tokens}
    return actor, LocalValueFunction(trunk, head, chat, states=states, **limits)


def local_policy(folder: Path, settings: LocalSettings, normalise: Callable[[str], str]) -> LocalPolicy:
    """Load a policy alone; see `local_models`."""
    return local_models(folder, None, settings, normalise)[0]


def local_qnet(folder: Path, settings: LocalSettings) -> LocalValueFunction:
    """Load a QNet folder as a LocalValueFunction with a trunk of its own."""
    qnet, tokenizer = load_qnet(folder, device=pick_device(settings.device))
    return LocalValueFunction(
        _trunk(qnet.backbone, settings),
        qnet.values,
        load_chat_format(settings.chat_format, tokenizer),
        max_length=settings.max_length,
        room=settings.max_new_tokens,
    )


def prompt_encoder(folder: Path, settings: LocalSettings) -> Callable[[History], tuple[int, ...]]:
    """Return what turns a history into the token ids that `local_policy` would see, without loading weights.

    Args:
        folder: of the policy.
        settings: how histories are written and cut.
    """
    chat = load_chat_format(settings.chat_format, load_checked_tokenizer(folder))
    max_prompt = prompt_limit(settings.max_length, settings.max_new_tokens)
    return lambda history: chat.prompt(history, max_prompt).ids


def _trunk(model: torch.nn.Module, settings: LocalSettings) -> LlamaTrunk:
    decoder = cast("Any", model)
    dtype = {"fp32": torch.float32, "bf16": torch.bfloat16}[pick_precision(settings.precision, decoder.device)]
    return LlamaTrunk(decoder, dtype=dtype, cache_bytes=settings.cache_mb << 20)
