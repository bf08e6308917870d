"""The models that stages write, loaded to act and to score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from qlass.errors import DataError, ModelMismatch
from qlass.policies.base import Propose, Score
from qlass.policies.llama import LlamaTrunk
from qlass.policies.load import LocalSettings, local_policy, local_qnet
from qlass.policies.local import LocalPolicy
from qlass.prompts import load_chat_format
from qlass.qnet.model import QNet, save_qnet
from qlass.records import History, Message

BuildModel = Callable[..., LlamaForCausalLM]

SETTINGS = LocalSettings("qlass", max_length=300, max_new_tokens=12, device="cpu", cache_mb=1, precision="fp32")


@pytest.fixture
def folder(tmp_path: Path, build_model: BuildModel, tokenizer: PreTrainedTokenizerFast) -> Path:
    """A policy folder."""
    build_model(5, initializer_range=0.15, tie_word_embeddings=True).save_pretrained(tmp_path / "policy")
    tokenizer.save_pretrained(tmp_path / "policy")
    return tmp_path / "policy"


def test_a_loaded_policy_proposes_as_the_saved_model(
    folder: Path, build_model: BuildModel, tokenizer: PreTrainedTokenizerFast, histories: list[History]
) -> None:
    model = build_model(5, initializer_range=0.15, tie_word_embeddings=True)
    saved = LocalPolicy(
        LlamaTrunk(model.model, dtype=torch.float32, cache_bytes=1 << 20),
        model.lm_head.weight,
        load_chat_format("qlass", tokenizer),
        lambda ids: str(tokenizer.decode(ids)),
        str.upper,
        max_length=300,
        max_new_tokens=12,
    )
    requests = [Propose(history, (1, 2), 0.8) for history in histories[:4]]
    assert local_policy(folder, SETTINGS, str.upper).propose(requests) == saved.propose(requests)


def test_half_precision_scores_nearly_the_same(
    folder: Path, build_model: BuildModel, histories: list[History]
) -> None:
    qnet = QNet(build_model(6).model, width=8).eval().requires_grad_(False)
    save_qnet(qnet, folder.parent / "qnet", folder)
    requests = [Score(history, ("Action: go east", "Action: take key")) for history in histories[:4]]
    half = local_qnet(folder.parent / "qnet", replace(SETTINGS, precision="bf16")).score(requests)
    full = local_qnet(folder.parent / "qnet", SETTINGS).score(requests)
    assert half != full
    assert half == [pytest.approx(values, abs=0.02) for values in full]


def test_a_loaded_qnet_scores_as_the_saved_one(
    folder: Path, build_model: BuildModel, tokenizer: PreTrainedTokenizerFast, histories: list[History]
) -> None:
    qnet = QNet(build_model(6).model, width=8).eval().requires_grad_(False)
    save_qnet(qnet, folder.parent / "qnet", folder)
    replies = ("Action: go east", "Thought: now\nAction: take key")
    found = local_qnet(folder.parent / "qnet", SETTINGS).score([Score(history, replies) for history in histories[:4]])
    chat = load_chat_format("qlass", tokenizer)
    for history, values in zip(histories, found, strict=False):
        for reply, value in zip(replies, values, strict=True):
            row = chat.row((*history, Message("assistant", reply)), 300)
            expected = qnet(torch.tensor([row.ids]), torch.tensor([0]), torch.tensor([row.action_ends[-1]]))
            assert value == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


def test_what_does_not_fit(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="not a policy"):
        local_policy(tmp_path, SETTINGS, str.lower)
    with pytest.raises(DataError, match="not a QNet"):
        local_qnet(folder, SETTINGS)
    words = folder / "tokenizer.json"
    words.write_text(words.read_text(encoding="utf-8").replace("<|end|>", "<|done|>"), encoding="utf-8")
    config = folder / "tokenizer_config.json"
    config.write_text(config.read_text(encoding="utf-8").replace("<|end|>", "<|done|>"), encoding="utf-8")
    with pytest.raises(ModelMismatch, match=r"has no token '<\|end\|>'"):
        local_policy(folder, SETTINGS, str.lower)
