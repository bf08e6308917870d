"""The models that stages write, loaded to act and to score."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from qlass.errors import DataError, ModelMismatch
from qlass.models.folders import load_model
from qlass.models.qnet import QNet, load_value_head, save_qnet
from qlass.policies.base import Propose, Score
from qlass.policies.llama import LlamaTrunk
from qlass.policies.load import LocalSettings, local_models, local_policy, local_qnet
from qlass.policies.local import LocalPolicy, ReplyStates
from qlass.prompts import load_chat_format
from qlass.records import History, Message
from tests.policies.counting import Counting

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
            row = chat.row((*history, Message("assistant", reply)), 300 - 12)
            expected = qnet(torch.tensor([row.ids]), torch.tensor([0]), torch.tensor([row.action_ends[-1]]))
            assert value == pytest.approx(float(expected), rel=1e-4, abs=1e-4)


def shared_qnet(folder: Path) -> QNet:
    """Save a QNet whose backbone is the policy's own trunk; return it."""
    torch.manual_seed(7)
    qnet = QNet(load_model(folder).base_model, width=8).eval().requires_grad_(False)
    save_qnet(qnet, folder.parent / "qnet", folder, policy_trunk=True)
    return qnet


def test_a_value_head_on_the_policys_trunk(
    folder: Path, histories: list[History], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The same values as from a QNet with a trunk of its own; replies just drawn are not encoded again."""
    shared_qnet(folder)
    long = replace(SETTINGS, max_new_tokens=60)
    separate = local_qnet(folder.parent / "qnet", long)
    policy, shared = local_models(folder, folder.parent / "qnet", long, str)
    assert shared is not None
    count = Counting(monkeypatch)
    encoded = []
    for draw in range(10):
        answers = policy.propose([Propose(history, (draw,), 0.8) for history in histories])
        for history, answer in zip(histories, answers, strict=True):
            request = Score(history, (answer.proposals[0].text,))
            before = count.chunks
            values = shared.score([request])[0]
            encoded.append(count.chunks > before)
            assert values == pytest.approx(separate.score([request])[0], rel=1e-4, abs=1e-5)
    # A random model writes special tokens, which read back as words, or hits the limit: those replies are encoded.
    assert 0.05 < encoded.count(False) / len(encoded) < 0.5


def test_given_replies_on_the_policys_trunk(
    folder: Path, histories: list[History], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Replies that the policy did not draw are read on its cached histories."""
    shared_qnet(folder)
    replies = ("Action: go east", "", "Thought: now\nAction: take key")
    expected = local_qnet(folder.parent / "qnet", SETTINGS).score([Score(one, replies) for one in histories[:4]])
    policy, shared = local_models(folder, folder.parent / "qnet", SETTINGS, str)
    assert shared is not None
    policy.propose([Propose(history, (0,), 0.0) for history in histories[:4]])
    count = Counting(monkeypatch)
    found = shared.score([Score(history, replies) for history in histories[:4]])
    assert found == [pytest.approx(values, rel=1e-4, abs=1e-5) for values in expected]
    assert count.encoded == 4  # the last token of each prompt: its state is not cached


def test_a_shared_trunk_forgets_states_too(
    folder: Path, histories: list[History], monkeypatch: pytest.MonkeyPatch
) -> None:
    shared_qnet(folder)
    policy, shared = local_models(folder, folder.parent / "qnet", replace(SETTINGS, max_new_tokens=60), str)
    assert shared is not None

    def chunks_to_score(*, forget: bool) -> list[int]:
        count, found = Counting(monkeypatch), []
        for history in histories:
            reply = policy.propose([Propose(history, (1,), 0.8)])[0].proposals[0].text
            if forget:
                policy.forget()
            before = count.chunks
            shared.score([Score(history, (reply,))])
            found.append(count.chunks - before)
        return found

    assert 0 in chunks_to_score(forget=False)
    assert set(chunks_to_score(forget=True)) == {1}


def test_a_head_of_another_policy_keeps_its_own_trunk(
    folder: Path, build_model: BuildModel, tokenizer: PreTrainedTokenizerFast, histories: list[History]
) -> None:
    qnet = shared_qnet(folder)
    build_model(8, initializer_range=0.15, tie_word_embeddings=True).save_pretrained(folder.parent / "other")
    tokenizer.save_pretrained(folder.parent / "other")
    assert load_value_head(folder.parent / "qnet", load_model(folder).base_model) is not None
    assert load_value_head(folder.parent / "qnet", load_model(folder.parent / "other").base_model) is None
    request = Score(histories[0], ("Action: go east",))
    _, value = local_models(folder.parent / "other", folder.parent / "qnet", SETTINGS, str)
    assert value is not None
    row = load_chat_format("qlass", tokenizer).row((*histories[0], Message("assistant", "Action: go east")), 300 - 12)
    expected = qnet(torch.tensor([row.ids]), torch.tensor([0]), torch.tensor([row.action_ends[-1]]))
    assert value.score([request])[0] == pytest.approx((float(expected),), rel=1e-4, abs=1e-5)
    save_qnet(qnet, folder.parent / "qnet", folder)  # one that learnt with its trunk
    assert load_value_head(folder.parent / "qnet", load_model(folder).base_model) is None


def test_states_are_forgotten() -> None:
    states = ReplyStates(2)
    for number in range(3):
        states.put((1, 2), (number,), torch.tensor([float(number)]))
    assert [states.get((1, 2), (number,)) for number in range(4)] == [
        None,
        torch.tensor([1.0]),
        torch.tensor([2.0]),
        None,
    ]
    assert states.get((1,), (1,)) is None


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
