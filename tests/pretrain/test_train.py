"""The tokenizer that knows names, and a model that is given it."""

import itertools

import pytest
import torch
from transformers import LlamaForCausalLM, PreTrainedTokenizerFast

from pretrain.train import (
    RECIPES,
    Row,
    batches,
    carry_over,
    encode,
    loss_of,
    names_of,
    train_tokenizer,
    with_key_value_heads,
)
from pretrain.train import new_model as new_model_of
from qlass.prompts import load_chat_format
from qlass.records import Message
from tests.pretrain.tokenizers import words

TEXT = "On the shelf 3, you see a mug 2, a mug 12, and a pen 1. I need a mug. Is there a cup 7 here? A pen 100.\nAction: go to shelf 3"
SHAPE = {
    "hidden_size": 256,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 1,
}


def new_model(shape: dict[str, int], tokenizer: PreTrainedTokenizerFast) -> LlamaForCausalLM:
    return new_model_of(shape, tokenizer, RECIPES["household"].codes(tokenizer))


def make_tokenizer(name_count: int) -> PreTrainedTokenizerFast:
    conversations = [[Message("user", TEXT)]] * 20 + [[Message("user", "There is a cup 7.")]]
    return train_tokenizer(conversations, {"vocab_size": 700, "name_count": name_count})


@pytest.fixture(scope="module")
def tokenizer() -> PreTrainedTokenizerFast:
    return make_tokenizer(20)


def test_a_frequent_name_is_one_piece_and_its_words_are_pieces_too(tokenizer: PreTrainedTokenizerFast) -> None:
    assert words(tokenizer, "go to shelf 3") == ["go", " to", " shelf 3"]
    assert words(tokenizer, "I need a mug.") == ["I", " need", " a", " mug", "."]
    assert words(tokenizer, "a mug 12, a mug 2") == ["a", " mug 12", ",", " a", " mug 2"]


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("a shelf 4", ["a", " shelf", " 4"]),
        ("a pen 100", ["a", " pen", " 100"]),
        ("a mug 123", ["a", " mug", " 12", "3"]),
    ],
)
def test_a_rare_name_is_a_word_and_a_number(tokenizer: PreTrainedTokenizerFast, text: str, parts: list[str]) -> None:
    assert words(tokenizer, text) == parts


def test_text_survives(tokenizer: PreTrainedTokenizerFast) -> None:
    assert tokenizer.decode(tokenizer.encode(TEXT)) == TEXT


def test_names_are_found_with_their_parts(tokenizer: PreTrainedTokenizerFast) -> None:
    parts = {tuple(map(tokenizer.decode, ids)) for ids in names_of(tokenizer)}
    assert {(" shelf 3", " shelf", " 3"), (" mug 12", " mug", " 12")} <= parts
    assert all(name == kind + number for name, kind, number in parts)


def test_a_name_starts_as_the_mean_of_its_parts(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    codes = new_model(SHAPE, tokenizer).model.embed_tokens.weight[:, 1:65]  # what attention compares
    for name, kind, number in names_of(tokenizer):
        torch.testing.assert_close(codes[name], (codes[kind] + codes[number]) / 2**0.5)
    assert codes.var().item() == pytest.approx(1.0, abs=0.05)


def test_a_model_keeps_what_both_tokenizers_know(tokenizer: PreTrainedTokenizerFast) -> None:
    old = make_tokenizer(10**6)  # knows no names
    model = new_model(SHAPE, old)
    before = model.model.embed_tokens.weight.detach().clone()
    text = "I need a pen."
    logits = model(torch.tensor([old.encode(text)])).logits[0, -1]
    carry_over(model, old, tokenizer)
    assert isinstance(model, LlamaForCausalLM)
    assert model.config.vocab_size == len(tokenizer) > len(old)
    same = [(old.convert_tokens_to_ids(p), tokenizer.convert_tokens_to_ids(p)) for p in (".", "\u0120need", "<|end|>")]
    after = model(torch.tensor([tokenizer.encode(text)])).logits[0, -1]
    for one, other in same:
        torch.testing.assert_close(logits[one], after[other])
        assert torch.equal(before[one], model.model.embed_tokens.weight[other])
    name, kind, number = next(ids for ids in names_of(tokenizer) if tokenizer.decode(ids[0]) == " mug 2")
    mean = before.mean(0)
    parts = [
        before[old.convert_tokens_to_ids(tokenizer.convert_ids_to_tokens(part))] - mean for part in (kind, number)
    ]
    torch.testing.assert_close(model.model.embed_tokens.weight[name] - mean, sum(parts) / 2**0.5)


def test_a_piece_in_other_capitals_starts_as_the_known_one(tokenizer: PreTrainedTokenizerFast) -> None:
    other = train_tokenizer(
        [[Message("user", TEXT.replace("need", "Need"))]] * 20, {"vocab_size": 700, "name_count": 20}
    )
    assert "\u0120Need" not in tokenizer.get_vocab()
    model = new_model(SHAPE, tokenizer)
    before = model.model.embed_tokens.weight.detach().clone()
    carry_over(model, tokenizer, other)
    after = model.model.embed_tokens.weight[other.convert_tokens_to_ids("\u0120Need")]
    assert torch.equal(after, before[tokenizer.convert_tokens_to_ids("\u0120need")])


@pytest.mark.parametrize(("before", "heads"), [(1, 4), (2, 4), (1, 1)])
def test_more_heads_of_keys_and_values_compute_the_same(
    tokenizer: PreTrainedTokenizerFast, before: int, heads: int
) -> None:
    model = with_key_value_heads(new_model(SHAPE, tokenizer), before)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter, std=0.05)
    wider = with_key_value_heads(model, heads)
    assert wider.config.num_key_value_heads == heads
    assert wider.model.layers[0].self_attn.k_proj.weight.shape == (heads * 64, 256)
    ids = torch.tensor([tokenizer.encode(TEXT)])
    torch.testing.assert_close(wider(ids).logits, model(ids).logits)


def test_equal_tokenizers_change_nothing(tokenizer: PreTrainedTokenizerFast) -> None:
    model = new_model(SHAPE, tokenizer)
    before = [parameter.detach().clone() for parameter in model.parameters()]
    carry_over(model, tokenizer, tokenizer)
    assert all(itertools.starmap(torch.equal, zip(before, model.parameters(), strict=True)))


REFUSED = [
    Message("user", "On the shelf 3, you see a mug 2."),
    Message("assistant", "Action: take pen 1"),
    Message("user", "Nothing happens."),
    Message("assistant", "Action: take mug 2"),
    Message("user", "You pick up the mug 2."),
]


def test_a_refused_reply_is_read_but_not_learned(tokenizer: PreTrainedTokenizerFast) -> None:
    (row,) = encode([REFUSED], load_chat_format("qlass", tokenizer), 1000, 0.5)
    texts = {weight: text_of(tokenizer, row, weight) for weight in (0.0, 0.5, 1.0)}
    assert texts == {
        0.0: "<|assistant|>Action: take pen 1<|end|>",
        0.5: "".join(f"<|user|>{message.content}<|end|>" for message in REFUSED if message.role == "user"),
        1.0: "<|assistant|>Action: take mug 2<|end|>",
    }
    (cut,) = encode([REFUSED], load_chat_format("qlass", tokenizer), 20, 1.0)
    assert len(cut.ids) == len(cut.weights) == 20


def text_of(tokenizer: PreTrainedTokenizerFast, row: Row, weight: float) -> str:
    return "".join(tokenizer.decode([token]) for token in row.ids[row.weights == weight])


def test_the_loss_is_the_weighted_sum_whatever_the_padding(tokenizer: PreTrainedTokenizerFast) -> None:
    torch.manual_seed(0)
    model = new_model(SHAPE, tokenizer)
    short, long = encode([REFUSED[:3], REFUSED], load_chat_format("qlass", tokenizer), 1000, 0.25)
    together = loss_of(model, [short, long]).item()
    alone = 0.0
    for row in (short, long):
        with torch.autocast("cpu", torch.bfloat16):
            logits = model(row.ids[None].long()).logits[0].float()
        for position in range(1, len(row.ids)):
            alone -= row.weights[position].item() * logits[position - 1].log_softmax(-1)[row.ids[position]].item()
    assert together == pytest.approx(alone, rel=1e-2)
    assert next(batches([short, long], 2, seed=0, start=0)) in ([short, long], [long, short])
