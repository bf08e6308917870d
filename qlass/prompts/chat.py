"""Chat formats: messages to token ids, message by message.

A conversation is never rendered as one string: each message is encoded on its own and the ids are joined. So the ids of
a history are a prefix of the ids of every history that continues it (which lets KV caches live across turns), and
training sees exactly the ids that acting sees.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any

from qlass.errors import ModelMismatch, SettingsError
from qlass.records import History, Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Ids = tuple[int, ...]


@dataclass(frozen=True, slots=True)
class Prompt:
    """Token ids that ask for the next reply.

    Attributes:
        ids: the whole prompt.
        boundaries: ascending lengths at which a message ended; a continuation of the history shares these prefixes.
    """

    ids: Ids
    boundaries: tuple[int, ...]


@dataclass(frozen=True, slots=True)
class TrainingRow:
    """A whole conversation as ids, with what is supervised.

    Attributes:
        ids: (T,) token ids.
        assistant_mask: (T,) 1 on each token of an assistant reply and on its end-of-turn token, else 0.
        action_ends: index of the last token of each reply's text, in order; -1 for a reply that truncation removed.
    """

    ids: list[int]
    assistant_mask: list[int]
    action_ends: list[int]


class ChatFormat:
    """How one family of models writes messages. `segments` is the only thing that differs between families.

    Attributes:
        name: the value of `base.chat_format`.
        stop: the id that ends a generated reply.
        segments: yields the ids of each message of a history in turn; a message that has no ids of its own yields ().
    """

    def __init__(self, name: str, segments: Callable[[History], Iterator[Ids]], opening: Ids, closing: Ids, stop: int):
        """Hold a format.

        Args:
            name: see Attributes.
            segments: see Attributes.
            opening: ids after the last message that open the assistant's reply.
            closing: ids that close an assistant segment (the end of turn), the last of them being `stop`.
            stop: see Attributes.
        """
        self.name, self.stop, self.segments = name, stop, segments
        self._opening, self._closing = opening, closing

    def prompt(self, history: History, max_prompt: int) -> Prompt:
        """Encode a history that ends with a user message, ready for a reply.

        Over-long histories lose their oldest turns (reply and observation) after the first observation.

        Args:
            history: system, user, assistant, user, ...
            max_prompt: tokens that the prompt may have; see `prompt_limit`.
        """
        kept, _ = self._cut(list(self.segments(history)), max_prompt)
        ids: list[int] = []
        boundaries = []
        for segment in kept:
            ids.extend(segment)
            if segment:
                boundaries.append(len(ids))
        return Prompt((*ids, *self._opening), tuple(boundaries))

    def reply(self, text: str) -> Ids:
        """Encode the text of a reply as it stands after a prompt, without the end of turn."""
        (segment,) = list(self.segments((Message("assistant", text),)))
        return segment[len(self._opening) : len(segment) - len(self._closing)]

    def row(self, history: History, max_prompt: int) -> TrainingRow:
        """Encode a whole conversation for training; see `TrainingRow`.

        What stands before the last reply is exactly the prompt that was, or will be, there when that reply is drawn or
        scored: `prompt` of those messages with the same `max_prompt`. An earlier reply stands after the same messages
        as when it was drawn only where nothing was cut.
        """
        segments = list(self.segments(history))
        replies = [number for number, message in enumerate(history) if message.role == "assistant"]
        last = replies[-1] if replies else len(history)
        kept, dropped = self._cut(segments[:last], max_prompt)
        kept += segments[last:]
        row = TrainingRow([], [], [-1] * (dropped // 2))
        roles = [message.role for message in history]
        roles = roles[:2] + roles[2 + dropped :]
        for role, segment in zip(roles, kept, strict=True):
            row.ids.extend(segment)
            if role != "assistant":
                row.assistant_mask.extend([0] * len(segment))
                continue
            row.assistant_mask.extend([0] * len(self._opening) + [1] * (len(segment) - len(self._opening)))
            row.action_ends.append(len(row.ids) - len(self._closing) - 1)
        return row

    def _cut(self, segments: list[Ids], max_prompt: int) -> tuple[list[Ids], int]:
        """Drop the oldest turns after the first two messages until the rest fits; return what stays and how many went.

        The newest turn, with the observation to answer, always stays.
        """
        total, dropped = len(self._opening) + sum(map(len, segments)), 0
        while total > max_prompt and 2 + dropped + 2 < len(segments):
            total -= len(segments[2 + dropped]) + len(segments[3 + dropped])
            dropped += 2
        if total > max_prompt:
            raise SettingsError(
                f"base.max_length: the instruction and the newest turn alone have {total} tokens, but {max_prompt} "
                "are allowed beside the reply; raise base.max_length"
            )
        return segments[:2] + segments[2 + dropped :], dropped


def prompt_limit(max_length: int, max_new_tokens: int) -> int:
    """Return how many tokens a history may have for whoever reads it: acting, scoring and training cut it alike.

    Args:
        max_length: tokens of history and reply together.
        max_new_tokens: tokens that are kept free for the reply.

    Raises:
        SettingsError: nothing is left for the history.
    """
    if max_new_tokens >= max_length:
        raise SettingsError(
            f"max_new_tokens: found {max_new_tokens}; allowed are 1 to {max_length - 1}, below base.max_length; "
            "lower it or raise base.max_length"
        )
    return max_length - max_new_tokens


def _qlass(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Our embedded format: `<|role|>text<|end|>` for each message."""
    role_id = {role: _special(tokenizer, f"<|{role}|>") for role in ("system", "user", "assistant")}
    end = _special(tokenizer, "<|end|>")

    @lru_cache(maxsize=65536)
    def encode(message: Message) -> Ids:
        return (role_id[message.role], *_plain(tokenizer, message.content), end)

    return ChatFormat("qlass", lambda history: map(encode, history), (role_id["assistant"],), (end,), end)


def _llama_2(tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Llama-2-Chat (Touvron et al., arXiv 2307.09288): `<s>[INST] <<SYS>> ... <</SYS>> user [/INST] reply </s>`."""
    bos, eos = _special(tokenizer, "<s>"), _special(tokenizer, "</s>")

    @lru_cache(maxsize=65536)
    def user(text: str) -> Ids:
        return (bos, *_plain(tokenizer, f"[INST] {text} [/INST]"))

    @lru_cache(maxsize=65536)
    def assistant(text: str) -> Ids:
        return (*_plain(tokenizer, text), eos)

    def segments(history: History) -> Iterator[Ids]:
        system = ""
        for message in history:
            if message.role == "system":
                system = f"<<SYS>>\n{message.content}\n<</SYS>>\n\n"
                yield ()
            elif message.role == "user":
                yield user(system + message.content)
                system = ""
            else:
                yield assistant(message.content)

    return ChatFormat("llama-2", segments, (), (eos,), eos)


CHAT_FORMATS: dict[str, Callable[[Any], ChatFormat]] = {"qlass": _qlass, "llama-2": _llama_2}


def load_chat_format(name: str, tokenizer: PreTrainedTokenizerBase) -> ChatFormat:
    """Build a chat format for a tokenizer.

    Raises:
        SettingsError: no format has this name.
        ModelMismatch: the tokenizer lacks one of the format's special tokens.
    """
    if name not in CHAT_FORMATS:
        raise SettingsError(f"base.chat_format: found {name!r}, allowed are {', '.join(sorted(CHAT_FORMATS))}")
    return CHAT_FORMATS[name](tokenizer)


def _special(tokenizer: PreTrainedTokenizerBase, token: str) -> int:
    found = tokenizer.convert_tokens_to_ids(token)
    if not isinstance(found, int) or found == tokenizer.unk_token_id or found < 0:
        raise ModelMismatch(
            f"tokenizer {tokenizer.name_or_path!r} has no token {token!r}, which this chat format needs; "
            "set base.chat_format to the format of this model"
        )
    return found


def _plain(tokenizer: PreTrainedTokenizerBase, text: str) -> list[int]:
    """Encode text in which special tokens are not recognised: an observation cannot end the turn."""
    return list(tokenizer.encode(text, add_special_tokens=False, split_special_tokens=True))
