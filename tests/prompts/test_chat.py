"""Chat formats: exact tables of ids and masks, and the laws that caching, training and safety rely on."""

from collections.abc import Callable

import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers import PreTrainedTokenizerFast

from qlass.errors import ModelMismatch, SettingsError
from qlass.prompts import ChatFormat, load_chat_format, prompt_limit
from qlass.records import History, Message

Build = Callable[[str], PreTrainedTokenizerFast]

FORMATS = ("qlass", "llama-2")
STOPS = {"qlass": "<|end|>", "llama-2": "</s>"}
HISTORY: History = (
    Message("system", "You walk."),
    Message("user", "I see cell 1. Goal: red room"),
    Message("assistant", "Thought: go east\nAction: go east"),
    Message("user", "I see cell 2"),
    Message("assistant", "Action: enter red room"),
    Message("user", "done."),
)
TABLES = {
    "qlass": (
        ("<|system|> You walk . <|end|>", 0),
        ("<|user|> I see cell 1 . Goal : red room <|end|>", 0),
        ("<|assistant|>", 0),
        ("Thought : go east Action : go east", "reply"),
        ("<|end|>", 1),
        ("<|user|> I see cell 2 <|end|>", 0),
        ("<|assistant|>", 0),
        ("Action : enter red room", "reply"),
        ("<|end|>", 1),
        ("<|user|> done . <|end|>", 0),
    ),
    "llama-2": (
        ("<s> [ INST ] < < SYS > > You walk . < < / SYS > > I see cell 1 . Goal : red room [ / INST ]", 0),
        ("Thought : go east Action : go east", "reply"),
        ("</s>", 1),
        ("<s> [ INST ] I see cell 2 [ / INST ]", 0),
        ("Action : enter red room", "reply"),
        ("</s>", 1),
        ("<s> [ INST ] done . [ / INST ]", 0),
    ),
}
"""What a conversation becomes, as (tokens, mask); each table written by hand."""

histories = st.lists(st.text(max_size=12), min_size=1, max_size=7).map(
    lambda texts: (
        Message("system", "You walk."),
        *(Message("assistant" if number % 2 else "user", text) for number, text in enumerate(texts)),
    )
)
"""system, user, assistant, user, ...: any text, ending with either."""


def tokens(tokenizer: PreTrainedTokenizerFast, text: str) -> list[int]:
    ids = tokenizer.convert_tokens_to_ids(text.split())
    assert tokenizer.unk_token_id not in ids
    return list(ids)


@pytest.mark.parametrize("name", FORMATS)
def test_table_of_a_worked_example(word_tokenizer: Build, name: str) -> None:
    tokenizer = word_tokenizer(name)
    ids: list[int] = []
    mask: list[int] = []
    ends = []
    for text, kind in TABLES[name]:
        part = tokens(tokenizer, text)
        ids += part
        mask += [int(kind != 0)] * len(part)
        if kind == "reply":
            ends.append(len(ids) - 1)
    row = load_chat_format(name, tokenizer).row(HISTORY, 1000)
    assert tokenizer.convert_ids_to_tokens(row.ids) == tokenizer.convert_ids_to_tokens(ids)
    assert row.assistant_mask == mask
    assert row.action_ends == ends


def test_literal_ids(word_tokenizer: Build) -> None:
    """The smallest example, in numbers."""
    chat = load_chat_format("qlass", word_tokenizer("qlass"))
    history = (Message("system", "You walk"), Message("user", "cell 1"))
    assert chat.prompt(history, 100).ids == (1, 12, 13, 4, 2, 29, 30, 4, 3)
    assert chat.prompt(history, 100).boundaries == (4, 8)
    row = chat.row((*history, Message("assistant", "Action: go east"), Message("user", "done")), 100)
    assert row.ids == [1, 12, 13, 4, 2, 29, 30, 4, 3, 25, 15, 20, 21, 4, 2, 28, 4]
    assert row.assistant_mask == [0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 1, 1, 1, 1, 0, 0, 0]
    assert row.action_ends == [12]


@pytest.mark.parametrize("name", FORMATS)
@given(history=histories)
def test_a_prompt_is_a_prefix_of_every_continuation(byte_tokenizer: Build, name: str, history: History) -> None:
    chat = load_chat_format(name, byte_tokenizer(name))
    whole = chat.row(history, 10_000)
    for turn in range(2, len(history) + 1, 2):
        prompt = chat.prompt(history[:turn], 10_000)
        shared = prompt.boundaries[-1]
        assert list(prompt.ids[:shared]) == whole.ids[:shared]
        if turn < len(history):  # the next message is a reply: its opening is part of the conversation too
            assert list(prompt.ids) == whole.ids[: len(prompt.ids)]
        for boundary in prompt.boundaries:
            assert boundary in chat.prompt(history[: turn + 2 * (turn + 2 <= len(history))], 10_000).boundaries


@pytest.mark.parametrize("name", FORMATS)
@given(history=histories)
def test_training_sees_the_ids_that_acting_sees(byte_tokenizer: Build, name: str, history: History) -> None:
    chat = load_chat_format(name, byte_tokenizer(name))
    row = chat.row(history, 10_000)
    replies = [turn for turn, message in enumerate(history) if message.role == "assistant"]
    supervised = [number for number, value in enumerate(row.assistant_mask) if value]
    expected = []
    for turn, end in zip(replies, row.action_ends, strict=True):
        prompt, reply = chat.prompt(history[:turn], 10_000), chat.reply(history[turn].content)
        acted = [*prompt.ids, *reply, chat.stop]
        assert row.ids[: len(acted)] == acted
        assert end == len(acted) - 2
        expected += range(len(prompt.ids), len(acted))
    assert supervised == expected


@pytest.mark.parametrize("name", FORMATS)
@given(text=st.text(max_size=10), at=st.integers(0, 10))
def test_special_tokens_in_an_observation_are_plain_text(byte_tokenizer: Build, name: str, text: str, at: int) -> None:
    tokenizer = byte_tokenizer(name)
    chat = load_chat_format(name, tokenizer)
    specials = "".join(tokenizer.all_special_tokens)
    evil = (*HISTORY[:3], Message("user", text[:at] + specials + text[at:]), *HISTORY[4:])
    special_ids = set(tokenizer.all_special_ids)

    def count(history: History) -> list[int]:
        return [number for number in chat.row(history, 10_000).ids if number in special_ids]

    assert count(evil) == count(HISTORY)
    assert chat.stop not in chat.reply(specials)


@pytest.mark.parametrize("name", FORMATS)
def test_long_conversations_lose_their_oldest_turns(word_tokenizer: Build, name: str) -> None:
    chat = load_chat_format(name, word_tokenizer(name))
    longer = (*HISTORY[:5], Message("user", "I see cell 2"), *HISTORY[4:])
    short = (*HISTORY[:2], *HISTORY[4:5], Message("user", "I see cell 2"), *HISTORY[4:])
    limit = len(chat.prompt(longer[:6], 1000).ids) - 1
    row, kept = chat.row(longer, limit), chat.row(short, 1000)
    assert (row.ids, row.assistant_mask) == (kept.ids, kept.assistant_mask)
    assert row.action_ends == [-1, *kept.action_ends]
    assert chat.prompt(longer[:6], limit) == chat.prompt(short[:4], 1000)


@pytest.mark.parametrize("name", FORMATS)
@given(history=histories, spare=st.integers(0, 200))
def test_truncation_keeps_the_ends_and_fits(byte_tokenizer: Build, name: str, history: History, spare: int) -> None:
    chat = load_chat_format(name, byte_tokenizer(name))
    history = history[: len(history) - len(history) % 2]  # ends with a user message
    least = (*history[:2], *history[max(2, len(history) - 2) :])
    limit = len(chat.prompt(least, 10_000).ids) + spare
    prompt = chat.prompt(history, limit)
    assert len(prompt.ids) <= limit
    whole = chat.prompt(history, 10_000)
    dropped = len(whole.boundaries) - len(prompt.boundaries)
    kept = (*history[:2], *history[2 + dropped :])
    assert prompt == chat.prompt(kept, 10_000)
    if dropped:  # no more than needed
        assert len(chat.prompt((*history[:2], *history[dropped:]), 10_000).ids) > limit


@pytest.mark.parametrize("name", FORMATS)
@given(history=histories, spare=st.integers(0, 200), after=st.booleans())
def test_a_row_is_cut_as_its_last_reply_was_drawn(
    byte_tokenizer: Build, name: str, history: History, spare: int, after: bool
) -> None:
    chat = load_chat_format(name, byte_tokenizer(name))
    history = history[: len(history) - len(history) % 2]
    limit = len(chat.prompt((*history[:2], *history[max(2, len(history) - 2) :]), 10_000).ids) + spare
    reply, answer = Message("assistant", "Action: go east"), Message("user", "You see nothing.")
    row = chat.row((*history, reply, answer) if after else (*history, reply), limit)
    acted = [*chat.prompt(history, limit).ids, *chat.reply(reply.content), chat.stop]
    assert row.ids[: len(acted)] == acted
    assert row.action_ends[-1] == len(acted) - 2
    assert len(row.ids) == len(row.assistant_mask)
    assert (len(row.ids) > len(acted)) == after
    assert len(row.action_ends) == len(history) // 2


@pytest.mark.parametrize("name", FORMATS)
@pytest.mark.parametrize("turns", [2, 4])
def test_what_cannot_be_truncated_is_an_error(word_tokenizer: Build, name: str, turns: int) -> None:
    """The newest observation is never dropped: the policy would answer something else."""
    chat = load_chat_format(name, word_tokenizer(name))
    fits = len(chat.prompt(HISTORY[:turns], 1000).ids)
    assert len(chat.prompt(HISTORY[:turns], fits).ids) == fits
    chat.row(HISTORY[: turns + 1], fits)
    for encode, messages in ((chat.prompt, turns), (chat.row, turns + 1)):
        with pytest.raises(SettingsError, match=r"base\.max_length.*newest turn"):
            encode(HISTORY[:messages], fits - 1)


def test_what_is_left_for_the_history() -> None:
    assert prompt_limit(300, 12) == 288
    with pytest.raises(SettingsError, match="max_new_tokens: found 300; allowed are 1 to 299, below base.max_length"):
        prompt_limit(300, 300)


@pytest.mark.parametrize("name", FORMATS)
def test_wrong_tokenizer(word_tokenizer: Build, name: str) -> None:
    other = FORMATS[1 - FORMATS.index(name)]
    with pytest.raises(ModelMismatch, match=r"has no token .* set base\.chat_format"):
        load_chat_format(other, word_tokenizer(name))


def test_unknown_format(word_tokenizer: Build) -> None:
    with pytest.raises(SettingsError, match="found 'chatml', allowed are llama-2, qlass"):
        load_chat_format("chatml", word_tokenizer("qlass"))


@pytest.mark.parametrize("name", FORMATS)
def test_the_stop_token(word_tokenizer: Build, name: str) -> None:
    tokenizer = word_tokenizer(name)
    chat: ChatFormat = load_chat_format(name, tokenizer)
    assert (chat.name, tokenizer.convert_ids_to_tokens(chat.stop)) == (name, STOPS[name])
