"""Tiny random Llama models and a tokenizer of whole words, built in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import pytest
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qlass.prompts import ChatFormat, load_chat_format
from qlass.records import History, Message

SPECIAL = ["<unk>", "<s>", "</s>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = "Thought Action : . [ ] / INST < > SYS you see a red blue green room door key go east west take enter now what 1 2 3"

BuildModel = Callable[..., LlamaForCausalLM]
Plain = Callable[[LlamaForCausalLM, Sequence[int]], torch.Tensor]


@pytest.fixture(scope="session")
def build_model() -> BuildModel:
    """Return a function that makes a model with two layers and sharp attention."""

    def build(seed: int = 0, **changes: Any) -> LlamaForCausalLM:
        settings: dict[str, Any] = {
            "vocab_size": len(SPECIAL) + len(WORDS.split()),
            "hidden_size": 32,
            "intermediate_size": 48,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "initializer_range": 0.3,
            "pad_token_id": None,
            "bos_token_id": None,
            "eos_token_id": None,
        }
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**settings | changes)).eval()

    return build


@pytest.fixture(scope="session")
def plain() -> Plain:
    """Return a function: hidden states (T, hidden) of one sequence by transformers, without any cache."""

    def run(model: LlamaForCausalLM, ids: Sequence[int]) -> torch.Tensor:
        with torch.no_grad():
            states: torch.Tensor = model.model(input_ids=torch.tensor([list(ids)]), use_cache=False).last_hidden_state
        return states[0]

    return run


@pytest.fixture(scope="session")
def tokenizer() -> PreTrainedTokenizerFast:
    """Special tokens of both chat formats, and words."""
    core = Tokenizer(
        models.WordLevel({word: i for i, word in enumerate([*SPECIAL, *WORDS.split()])}, unk_token="<unk>")
    )
    core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="<|end|>", additional_special_tokens=SPECIAL[1:-1]
    )


@pytest.fixture(scope="session", params=["qlass", "llama-2"])
def chat(request: pytest.FixtureRequest, tokenizer: PreTrainedTokenizerFast) -> ChatFormat:
    """Both chat formats."""
    return load_chat_format(request.param, tokenizer)


@pytest.fixture(scope="session")
def histories() -> list[History]:
    """Conversations of one to five turns, all different, some sharing their beginning."""
    system = Message("system", "you enter a room .")
    found: list[History] = []
    for colour in ("red", "blue", "green"):
        history: History = (system, Message("user", f"you see a {colour} door . enter a {colour} room"))
        for turn in range(1, 6):
            found.append(history)
            reply = Message("assistant", "Action: go east" if turn % 2 else f"Thought: now\nAction: take {colour} key")
            history = (*history, reply, Message("user", "you see " + "a key . " * turn))
    return found
