"""The shop reader's tokenizer, what its model starts from, and how it is measured."""

from __future__ import annotations

import itertools
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch
import yaml
from transformers import PreTrainedTokenizerFast

from pretrain.measure import expert_episode, read
from pretrain.shop.corpus import episodes
from pretrain.shop.tokens import codes_of, train_tokenizer
from pretrain.train import RECIPES, encode, new_model
from qlass.envs.webshop import DEFINITION
from qlass.prompts import load_chat_format
from qlass.records import Message, TaskSpec
from tests.pretrain.test_train import SHAPE
from tests.pretrain.tokenizers import saved, words

pytest.importorskip("rapidfuzz")
pytest.importorskip("snowballstemmer")

SETTINGS = {"size": 300, "max_steps": 12, "questions": 4, "new_ids": True, "renamed": 0.4}
OPTIONS = {"goals": "human"}


def shown(spec: TaskSpec) -> tuple[Message, ...]:
    """Play one of the expert's episodes in the default shop."""
    options = yaml.safe_load(Path("params.yaml").read_text())["envs"]["webshop"]["options"]
    return expert_episode(DEFINITION.make(options), DEFINITION, spec, 15)


@pytest.fixture(scope="module")
def conversations() -> list[list[Message]]:
    played = (one for catalogue in (1, 2) for one in episodes(SETTINGS, 5, catalogue, 150))
    return [[Message(role, text) for role, text in messages] for messages in played]


@pytest.fixture(scope="module")
def tokenizer(conversations: list[list[Message]], tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerFast:
    """Return the tokenizer as the pipeline would read it from a folder."""
    made = train_tokenizer(conversations, {"pieces": 700, "word_count": 5, "numbers": 400})
    return saved(made, tmp_path_factory.mktemp("tokenizer"))


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("click[B0BW22S5IF]", ["click[", "B0", "BW", "22", "S5", "IF", "]"]),
        (" B0BW22S5IF costs", [" B0", "BW", "22", "S5", "IF", " costs"]),
        (
            "Next > [SEP] B0000000ZZ [SEP] $8.99",
            ["next >", " [SEP] B0", "00", "00", "00", "ZZ", " [SEP] $", "8", ".99"],
        ),
        (", below 40.", [",", " below ", "40", "."]),
        (", and price lower than 140.00 dollars", [", and price lower than ", "140", ".00 dollars"]),
        (" [SEP] khaki [SEP] ", [" [SEP] ", "khaki", " [SEP] "]),
        ("click[khaki]", ["click[", "khaki", "]"]),
    ],
)
def test_pages_and_replies_have_equal_tokens(tokenizer: PreTrainedTokenizerFast, text: str, parts: list[str]) -> None:
    assert words(tokenizer, text) == parts


@pytest.mark.parametrize(
    ("text", "read_as"),
    [
        (" [SEP] Fenrell Water Resistant Camera, Home Guard [SEP] ", " [SEP] fenrell water resistant camera, home guard [SEP] "),
        ("Instruction: [SEP] i need it", "instruction: [SEP] i need it"),
        (" [SEP] Back to Search [SEP] Page 1 (Total results: 50)", " [SEP] back to search [SEP] page 1 (total results: 50)"),
        ("Which id has the title Kelsina Wrap? B0BW22S5IF", "which id has the title kelsina wrap? B0BW22S5IF"),
        ("lamp [SEP] $100.0 [SEP] B0BW22S5IF", "lamp [SEP] $100.0 [SEP] B0BW22S5IF"),
        ("HDMI Cable", "HDMI cable"),
        ("Action: search[women's t-shirt]", "Action: search[women's t-shirt]"),
        ("Thought: Is it here? No. I'm sure. Not this one.\nAction: click[a]", "Thought: Is it here? No. I'm sure. Not this one.\nAction: click[a]"),
    ],
)  # fmt: skip
def test_words_of_titles_and_buttons_are_read_in_lower_case(
    tokenizer: PreTrainedTokenizerFast, text: str, read_as: str
) -> None:
    assert tokenizer.decode(tokenizer.encode(text)) == read_as


def test_what_the_expert_writes_survives(tokenizer: PreTrainedTokenizerFast) -> None:
    specs = itertools.islice(DEFINITION.panels(OPTIONS, "train", 0), 30)
    replies = {one.content for spec in specs for one in shown(spec) if one.role == "assistant"}
    assert len(replies) > 100
    assert all(tokenizer.decode(tokenizer.encode(reply)) == reply for reply in replies)


@pytest.mark.parametrize(
    "text",
    [
        "search[zqxv womens 14k]\n\n  two  blanks\ttab",
        "B0SHORT and B0TOOLONG01 and b0bw22s5if",
        '16" x 16" \N{EM DASH} caf\N{LATIN SMALL LETTER E WITH ACUTE} \N{SNOWMAN}',
        "999 1000 12345 007 3.14159 $",
        "<|end|> is text here",
        "WEBSHOP, N.A., a B, x A",
    ],
)
def test_every_text_survives(tokenizer: PreTrainedTokenizerFast, text: str) -> None:
    assert tokenizer.decode(tokenizer.encode(text, split_special_tokens=True)) == text


def test_the_whole_corpus_survives_but_for_capitals(
    tokenizer: PreTrainedTokenizerFast, conversations: list[list[Message]]
) -> None:
    texts = {message.content for conversation in conversations for message in conversation}
    assert all(tokenizer.decode(tokenizer.encode(text)).lower() == text.lower() for text in texts)


def test_equal_corpora_give_equal_tokenizers_in_every_process() -> None:
    """A killed run makes its tokenizer again: it must be the one that its checkpoint knows."""
    code = (
        "from pretrain.shop.tokens import train_tokenizer; from qlass.records import Message;"
        "texts = [Message('user', 'Instruction: [SEP] a khaki lamp [SEP] B0BW22S5IF [SEP] $8.99')];"
        "made = train_tokenizer([texts], {'pieces': 275, 'word_count': 1, 'numbers': 9});"
        "print(made.backend_tokenizer.to_str())"
    )
    made = [
        subprocess.run(
            [sys.executable, "-c", code],
            env={**os.environ, "PYTHONHASHSEED": seed},
            check=True,
            capture_output=True,
            text=True,
        ).stdout
        for seed in ("1", "2")
    ]
    assert made[0] == made[1] != ""


def test_no_token_holds_an_id_or_a_product(tokenizer: PreTrainedTokenizerFast) -> None:
    tokens = tokenizer.get_vocab()
    assert not [token for token in tokens if re.search(r"B0[0-9A-Z]", token)]
    pairs = [token for token in tokens if re.fullmatch(r"[0-9A-Z]{2}", token)]
    assert len(pairs) == 36**2


def test_the_expert_s_episodes_fit(tokenizer: PreTrainedTokenizerFast) -> None:
    chat = load_chat_format("qlass", tokenizer)
    specs = [spec for spec, _ in zip(DEFINITION.panels(OPTIONS, "train", 0), range(40), strict=False)]
    lengths = sorted(sum(map(len, chat.segments(shown(spec)))) for spec in specs)
    base = yaml.safe_load(Path("params.yaml").read_text())["base"]
    assert lengths[len(lengths) // 2] < 1200
    assert lengths[-2] <= base["max_length"] - base["max_new_tokens"], "more than one loses its oldest turns"


def test_an_expert_s_episode_ends_with_a_purchase_in_normal_form() -> None:
    spec = next(DEFINITION.panels(OPTIONS, "train", 0))
    messages = shown(spec)
    assert messages[-1].content.endswith("Action: click[buy now]")
    assert [message.role for message in messages[:3]] == ["system", "user", "assistant"]


def test_forms_of_a_word_and_numbers_of_a_size_start_alike(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    weights = new_model(SHAPE, tokenizer, codes_of(tokenizer)).model.embed_tokens.weight[:, 1:192].detach()
    alike = torch.nn.functional.normalize(weights, dim=1)

    def close(one: str, other: str) -> float:
        (a,), (b,) = tokenizer.encode(one), tokenizer.encode(other)
        return float(alike[a] @ alike[b])

    assert close(" khaki", "khaki") == pytest.approx(0.7, abs=0.1)
    assert abs(close(" khaki", " easy")) < 0.3
    assert close("39", "40") > 0.25
    assert close("39", "40") > close("39", "60") + 0.1
    assert close("39", "40") < 0.7
    assert abs(close("5", "390")) < 0.3
    assert weights.var().item() == pytest.approx(1.0, abs=0.1)


def test_every_reply_is_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    page = [
        Message("user", "Instruction:"),
        Message("assistant", "Action: click[khaki]"),
        Message("user", "Instruction:"),
    ]
    (row,) = encode([page], load_chat_format("qlass", tokenizer), 100, 0.1)
    assert row.weights.min() > 0


def test_a_reading_counts_an_answer_where_all_its_tokens_are_likely(tokenizer: PreTrainedTokenizerFast) -> None:
    class Echo(torch.nn.Module):
        """Foresee every token, or none."""

        def forward(self, ids: torch.Tensor) -> object:
            logits = torch.zeros(*ids.shape, len(tokenizer))
            following = ids.roll(-1, dims=1) if self.right else ids * 0
            logits.scatter_(2, following[:, :, None], 1.0)
            return type("Output", (), {"logits": logits})

    chat = load_chat_format("qlass", tokenizer)
    messages = [
        ("user", "Is khaki offered?"),
        ("assistant", "yes"),
        ("user", "What does it cost?"),
        ("assistant", "8.99"),
    ]
    model = Echo()
    for model.right in (True, False):
        reading = read(model, chat, messages)
        assert [reading.right(1), reading.right(3)] == [model.right] * 2


def test_recipes_read_their_own_settings() -> None:
    household, *others = (RECIPES[name].params() for name in ("household", "shop", "sciworld"))
    folders = {Path(params["out"]).parent for params in (household, *others)}
    assert len(folders) == 3  # corpora, tokenizers and checkpoints stand there
    for params in others:
        assert household.keys() - {"shop", "sciworld"} == params.keys()
