"""What a server of an OpenAI protocol answers: the one place where it is read, checked and put into one form.

Servers differ (vLLM, SGLang, llama.cpp, Ollama, hosted APIs, gateways in front of them), and what they send is not ours.
`read` returns what can be stored, or raises a `Fault`, which says in the server's own words what is wrong. Whether a
fault passes, and what the user can do, stands in one table, `Cause`. Nothing here touches the network.
"""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, TypeAdapter, ValidationError

from qlass.errors import Busy, DataError, QlassError, SettingsError
from qlass.validation import problems

Protocol: TypeAlias = Literal["completions", "chat"]

SHOWN = 300
"""Characters of a server's answer that an error message quotes."""
FLOOR = -9999.0
"""Lowest log probability of a token, which servers give for "very unlikely"; an infinite one cannot be stored."""
_ROUNDING = 1e-3
"""By so much a log probability may lie above 0: servers compute in half precision."""


class Cause(Enum):
    """Why there is no reply: the error that it becomes, and what to do. `Busy` passes: the request is sent again."""

    NETWORK = Busy, "start the server, or check base_url"
    OVERLOADED = Busy, "the server is overloaded or limits requests: lower concurrency, or raise retries"
    FAILED = Busy, "the server itself failed: see its log"
    CUT = Busy, "the answer was damaged on its way: see the logs of the server and of what stands before it"
    CERTIFICATE = (
        SettingsError,
        "no secure connection can be made: put the server's certificate authority into a file that SSL_CERT_FILE names, or "
        "correct https:// and the port in base_url",
    )
    PROXY = SettingsError, "the proxy wants a user and a password: put them into its address"
    REDIRECT = SettingsError, "set base_url to the address to which the server sends its clients"
    KEY = SettingsError, "check the API key (api_key_env), and whether it may use this model"
    CREDIT = SettingsError, "the account has no credit or quota left: add some"
    ADDRESS = SettingsError, "check base_url (it ends with the version, as in http://127.0.0.1:8000/v1) and model"
    LENGTH = (
        SettingsError,
        "the server allows shorter conversations: lower base.max_length or base.max_new_tokens in params.yaml, or start "
        "the server with a longer context",
    )
    FILTER = SettingsError, "the server's content filter refuses this conversation: change the filter, or the server"
    REFUSED = SettingsError, "the server does not take such a request: check model and api"
    NO_LOGPROBS = (
        SettingsError,
        "set logprobs: false (inference.server.logprobs in params.yaml); Best-of-N by likelihood is then not measured, "
        "and qlass_adaptive runs with prior: 0 only",
    )
    PROTOCOL = DataError, "check base_url (it ends with the version, as in http://127.0.0.1:8000/v1) and api"
    COUNT = DataError, "set request_per_seed: true"

    def __init__(self, error: type[QlassError], advice: str) -> None:
        """Name what the table's columns are."""
        self.error, self.advice = error, advice

    @property
    def passes(self) -> bool:
        """Whether the same request may succeed later."""
        return self.error is Busy


_STATUSES = {
    **dict.fromkeys((400, 422), Cause.REFUSED),
    **dict.fromkeys((401, 403), Cause.KEY),
    402: Cause.CREDIT,
    **dict.fromkeys((404, 405, 410), Cause.ADDRESS),
    407: Cause.PROXY,
    413: Cause.LENGTH,
    **dict.fromkeys((408, 409, 425, 429, 498, 499, 503, 529), Cause.OVERLOADED),
    424: Cause.FAILED,  # text-generation-inference, where a generation fails
    **dict.fromkeys((501, 505, 511), Cause.REFUSED),
}
"""By HTTP status, which an `error` inside an answer may have as its code; the others go by their hundred."""

_WORDS: tuple[tuple[str, Cause], ...] = (
    ("insufficient_quota|billing_(not_active|hard_limit)|insufficient.{0,9}(credit|balance|funds)", Cause.CREDIT),
    (
        "context.?(length|window|size)|maximum.{0,9}(context|length)|exceed_context|prompt is too long|max_total_tokens"
        "|(inputs|prompt).{0,40}max_new_tokens",
        Cause.LENGTH,
    ),
    ("content.?(filter|policy|management)", Cause.FILTER),
)
"""What the words of an error say more exactly than its status."""

_NAMES: tuple[tuple[str, Cause], ...] = (
    ("rate.?limit|too.?many|overload|capacity|throttl|exhausted|busy|unavailable|timeout", Cause.OVERLOADED),
    ("api.?key|authenticat|unauthori|permission|forbidden", Cause.KEY),
    ("not.?found", Cause.ADDRESS),
    ("invalid.?request|bad.?request|validation|unprocessable|unsupported", Cause.REFUSED),
)
"""What an error says that has no status."""


class Fault(Exception):
    """There is no reply; the text is what was found, mostly in the server's words."""

    def __init__(self, cause: Cause, found: str, wait_s: float | None = None) -> None:
        """Keep why, and the seconds that the server asks to wait."""
        super().__init__(found)
        self.cause, self.wait_s = cause, wait_s


@dataclass(frozen=True, slots=True)
class Asked:
    """What was asked for, against which an answer is checked.

    Attributes:
        api: the protocol.
        count: replies.
        logprobs: whether log probabilities were asked for.
        uncounted: tokens of a reply that may have no log probability: the end of turn, and those of a stop string.
    """

    api: Protocol
    count: int
    logprobs: bool
    uncounted: int = 1


@dataclass(frozen=True, slots=True)
class Reply:
    """One reply.

    Attributes:
        text: of the reply alone, without what a reasoning model thought before; can be stored as UTF-8.
        tokens: generated ones; 0 where the server does not count.
        logprob: sum over the tokens, finite and at most about 0; 0.0 where none was asked for.
    """

    text: str
    tokens: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Answer:
    """All replies to one request, in their order.

    Attributes:
        replies: as many as asked for.
        prompt_tokens: 0 where the server does not count.
        remarks: what is odd about the answer and worth a line in the log.
    """

    replies: tuple[Reply, ...]
    prompt_tokens: int
    remarks: frozenset[str]


def _count(value: object) -> object:
    """Take counts that are written as text or as 3.0; nothing is no count."""
    if isinstance(value, str) and re.fullmatch("[0-9]{1,18}", value):
        return int(value)
    return int(value) if isinstance(value, float) and value.is_integer() else value


def _number(value: object) -> object:
    """Take numbers that are written as text, and minus infinity as the lowest one."""
    if isinstance(value, str):
        try:
            value = float(value)
        except ValueError:
            return value
    if isinstance(value, int | float) and not isinstance(value, bool):
        return max(value, FLOOR)  # NaN stays
    return value


Tokens: TypeAlias = Annotated[int, Field(ge=0, lt=1 << 40), BeforeValidator(_count)]
Logprob: TypeAlias = Annotated[float, Field(le=_ROUNDING, allow_inf_nan=False), BeforeValidator(_number)]


class _Part(BaseModel):
    """A part of an answer, of which we read some fields; their values are taken as they are, or in no other form."""

    model_config = ConfigDict(extra="ignore", strict=True, frozen=True)


class _Content(_Part):
    """A part of a message, where `content` is a list."""

    type: str = "text"
    text: str | None = None
    refusal: str | None = None


class _Message(_Part):
    """The message of a chat server; which of the fields are there says why there is no text."""

    content: str | list[str | _Content] | None = None
    refusal: str | None = None
    reasoning_content: Any = None
    reasoning: Any = None
    tool_calls: Any = None
    function_call: Any = None


class _Choice(_Part):
    index: Annotated[int | None, BeforeValidator(_count)] = None
    finish_reason: Any = None
    logprobs: Any = None
    error: Any = None


class _ChatChoice(_Choice):
    message: _Message


class _TextChoice(_Choice):
    text: str | None


class _Details(_Part):
    reasoning_tokens: Tokens | None = None


class _Usage(_Part):
    prompt_tokens: Tokens | None = None
    completion_tokens: Tokens | None = None
    completion_tokens_details: _Details | None = None


class _Chat(_Part):
    choices: list[_ChatChoice] | None
    usage: _Usage | None = None


class _Completion(_Part):
    choices: list[_TextChoice] | None
    usage: _Usage | None = None


class _Token(_Part):
    logprob: Logprob


class _Logprobs(_Part):
    """Both forms, since some servers use that of the other protocol."""

    content: list[_Token] | None = None
    token_logprobs: list[Logprob] | None = None


Model = TypeVar("Model", bound=_Part)

_ERROR_NAMES = ("code", "status", "status_code", "type", "error_type")
_ERROR_WORDS = ("error", "message", "detail", "msg")
_THOUGHTS = ("thinking", "reasoning", "redacted_thinking", "reasoning_text", "summary_text")
_CALLS = ("tool_use", "tool_call", "function_call")
_TEXTS = ("text", "output_text", "refusal")


def read(content: bytes, asked: Asked) -> Answer:
    """Return what an answer with a status of success holds.

    Args:
        content: body of the answer.
        asked: what was asked for.

    Raises:
        Fault: it holds something else; nothing is guessed.
    """
    try:
        return _read(_decode(content, asked.api), asked)
    except RecursionError:
        raise Fault(Cause.PROTOCOL, "values inside values, too deep to be read") from None


def _read(value: Mapping[str, Any], asked: Asked) -> Answer:
    """Return what an answer holds."""
    _refuse_error(value, asked)
    chat = asked.api == "chat"
    answer = _checked(_Chat, value, asked.api) if chat else _checked(_Completion, value, asked.api)
    choices = _in_order(answer.choices or (), asked)
    remarks: set[str] = set()
    texts = [_text(choice, asked, remarks) for choice in choices]
    usage = answer.usage or _Usage()
    total = usage.completion_tokens or 0
    if asked.logprobs:
        logprobs = [_logprobs(choice, number) for number, choice in enumerate(choices)]
        _check_complete(texts, logprobs, usage, asked)
        if any(value == FLOOR for values in logprobs for value in values):
            remarks.add(f"log probabilities of {FLOOR:g} (very unlikely) are taken as they are")
        tokens = [total] if len(logprobs) == 1 and total else [len(values) for values in logprobs]
        sums = [math.fsum(values) for values in logprobs]
    else:
        tokens, sums = _shares(total, asked.count), [0.0] * asked.count
    if usage.prompt_tokens is None or (any(texts) and not any(tokens)):
        remarks.add("it does not count all tokens: those of prompts, or of replies, are reported as 0")
    replies = tuple(Reply(*one) for one in zip(texts, tokens, sums, strict=True))
    return Answer(replies, usage.prompt_tokens or 0, frozenset(remarks))


def refusal(status: int, content: bytes, *, logprobs: bool, location: str = "") -> Fault:
    """Return what an answer without success means.

    Args:
        status: of HTTP.
        content: body of the answer.
        logprobs: whether log probabilities were asked for, which some servers refuse.
        location: where a redirect leads.
    """
    text = _text_of(content)
    try:
        names, words = _error(_json(text))
    except RecursionError:
        names, words = [], text
    words = f"a redirect to {location or 'nowhere'}" if 300 <= status < 400 else words or text
    cause = _by_words(f"{names} {words}", _by_status(status), logprobs=logprobs)
    return Fault(cause, f"HTTP {status}: {shown(words)}")


def shown(text: str) -> str:
    """Return the beginning of a text in one line that can be printed."""
    line = " ".join(text[: 4 * SHOWN].split())
    return "".join(one if one.isprintable() else "\N{REPLACEMENT CHARACTER}" for one in line)[:SHOWN]


def _text_of(content: bytes) -> str:
    """Decode a body as JSON prescribes; what the header says of its character set is often wrong.

    What is no text becomes U+FFFD, as in the replies of a policy: the reply is as bad as its model wrote it, and counts.
    """
    return content.decode(json.detect_encoding(content), "replace")


def _json(text: str) -> Any:
    """Return the value in a text, None where there is none. Halves of surrogate pairs become U+FFFD.

    JSON can say such a half, but it is no text and cannot be stored.
    """
    try:
        value = json.loads(text, strict=False)
        if "\\ud" in text.lower():
            written = json.dumps(value, ensure_ascii=False)
            value = json.loads(written.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace"))
    except (ValueError, RecursionError):  # a number of thousands of digits is a ValueError too
        return None
    return value


def _decode(content: bytes, api: Protocol) -> dict[str, Any]:
    """Return the object that an answer is."""
    text = _text_of(content)
    value = _json(text)
    if isinstance(value, dict):
        return value
    start = text.lstrip("\N{BYTE ORDER MARK} \t\r\n")
    if not start:
        raise Fault(Cause.CUT, "an empty answer")
    if start.startswith(("data:", "event:", ":")):
        raise Fault(
            Cause.PROTOCOL, f"not an answer of the OpenAI {api} protocol but a stream of events: {shown(start)}"
        )
    if value is None and start.startswith("{"):
        raise Fault(Cause.CUT, f"damaged JSON: {shown(start)}")
    kind = " but a web page (of a proxy, or of a login)" if start.startswith("<") else ""
    raise Fault(Cause.PROTOCOL, f"not an answer of the OpenAI {api} protocol{kind}: {shown(start)}")


def _refuse_error(value: Mapping[str, Any], asked: Asked) -> None:
    """Raise the error that an answer holds although its status is 200: at the top, or inside a choice."""
    error = value.get("error")
    named = "choices" not in value and (value.get("object") == "error" or value.get("type") == "error")
    if error or named:
        raise _reported(error or value, asked)
    choices = value.get("choices")
    for choice in choices if isinstance(choices, list) else ():
        if not isinstance(choice, dict):
            continue
        reason = choice.get("finish_reason")
        kind = reason.get("type") if isinstance(reason, dict) else reason
        if choice.get("error") or kind in ("error", "abort"):
            raise _reported(choice.get("error") or {"finish_reason": reason}, asked)


def _reported(error: object, asked: Asked) -> Fault:
    """Return what an error inside an answer means: by its status, else by its words, else the server failed."""
    names, words = _error(error)
    statuses = [number for name in names if isinstance(number := _count(name), int) and 300 <= number < 600]
    text = f"{names} {words}"
    cause = _by_status(statuses[0]) if statuses else _first(_NAMES, text, Cause.FAILED)
    return Fault(_by_words(text, cause, logprobs=asked.logprobs), f"an error in its answer: {shown(words)}")


def _error(error: object) -> tuple[list[object], str]:
    """Return the names (status, code, type) and the words of an error, in the forms that servers use."""
    names: list[object] = []
    for _ in range(5):
        if not isinstance(error, Mapping):
            break
        names += [error[key] for key in _ERROR_NAMES if isinstance(error.get(key), str | int | float)]
        inner = next((error[key] for key in _ERROR_WORDS if error.get(key)), None)
        if inner is None:
            break
        error = inner
    return names, error if isinstance(error, str) else json.dumps(error, ensure_ascii=False) if error else ""


def _by_status(status: int) -> Cause:
    """Return what a status means."""
    if status in _STATUSES:
        return _STATUSES[status]
    if status >= 500:
        return Cause.FAILED
    return Cause.REDIRECT if 300 <= status < 400 else Cause.REFUSED


def _by_words(words: str, otherwise: Cause, *, logprobs: bool) -> Cause:
    """Return what the words of an error say, or else what its status does."""
    if logprobs and not otherwise.passes and re.search("log.?prob", words, re.IGNORECASE):
        return Cause.NO_LOGPROBS
    return _first(_WORDS, words, otherwise)


def _first(table: Sequence[tuple[str, Cause]], text: str, otherwise: Cause) -> Cause:
    """Return the cause of the first pattern that is in a text."""
    found = (cause for pattern, cause in table if re.search(pattern, text[: 4 * SHOWN], re.IGNORECASE))
    return next(found, otherwise)


def _checked(model: type[Model], value: object, what: str) -> Model:
    """Return a part of an answer with all of its fields as declared."""
    try:
        return model.model_validate(value)
    except ValidationError as error:
        first = problems(error, TypeAdapter(model))[0]
        raise Fault(Cause.PROTOCOL, f"not an answer of the OpenAI {what} protocol: {shown(str(first))}") from None


def _in_order(choices: Sequence[_Choice], asked: Asked) -> list[Any]:
    """Return the choices in the order of their index, each of which must be there once."""
    if not choices:
        raise Fault(Cause.FAILED, "no choices in its answer")
    if len(choices) != asked.count:
        cause = Cause.COUNT if asked.count > 1 else Cause.PROTOCOL
        raise Fault(cause, f"{len(choices)} replies instead of {asked.count}")
    indices = [choice.index for choice in choices]
    if len(choices) == 1 or indices == [None] * len(choices):
        return list(choices)
    by_index = {choice.index: choice for choice in choices}
    if by_index.keys() != set(range(asked.count)):
        raise Fault(Cause.COUNT, f"replies with the indices {shown(str(indices))} instead of 0 to {asked.count - 1}")
    return [by_index[number] for number in range(asked.count)]


def _text(choice: Any, asked: Asked, remarks: set[str]) -> str:
    """Return the text of a reply; what it says beside its text is remarked."""
    if choice.finish_reason == "content_filter":
        remarks.add("its content filter cuts replies (finish_reason: content_filter): they count as they are")
    if isinstance(choice, _TextChoice):
        return choice.text or ""
    message: _Message = choice.message
    said = [message.content] if isinstance(message.content, str) else message.content or []
    kinds = {one.type for one in said if isinstance(one, _Content)}
    if other := sorted(kinds.difference(_TEXTS, _THOUGHTS, _CALLS)):
        raise Fault(Cause.PROTOCOL, f"not text but a part of type {shown(other[0])!r}")
    text = "".join(one if isinstance(one, str) else _said(one) for one in said) or message.refusal or ""
    thought = bool(message.reasoning_content or message.reasoning or kinds.intersection(_THOUGHTS))
    called = bool(message.tool_calls or message.function_call or kinds.intersection(_CALLS))
    if not text and thought:
        remarks.add("replies hold thoughts and no text: raise base.max_new_tokens, or turn off its reasoning")
    elif not text and called:
        remarks.add("replies hold calls of tools and no text: turn off its tools")
    elif not message.model_fields_set & {"content", "refusal"}:
        raise Fault(Cause.PROTOCOL, f"not an answer of the OpenAI {asked.api} protocol: a message without content")
    return text


def _said(part: _Content) -> str:
    """Return the text of a part, which thoughts have too."""
    return (part.text or part.refusal or "") if part.type in _TEXTS else ""


def _logprobs(choice: _Choice, number: int) -> list[float]:
    """Return the log probability of each token of a choice; empty where the server gives none."""
    try:
        given = _Logprobs.model_validate(choice.logprobs or {})
    except ValidationError as error:
        first = problems(error, TypeAdapter(_Logprobs))[0]
        where = f"choices[{number}].logprobs"
        raise Fault(Cause.NO_LOGPROBS, f"log probabilities that are none in {where}: {shown(str(first))}") from None
    if given.token_logprobs is not None:
        return given.token_logprobs
    return [token.logprob for token in given.content or ()]


def _check_complete(texts: Sequence[str], logprobs: Sequence[Sequence[float]], usage: _Usage, asked: Asked) -> None:
    """Check that every token of every reply has its log probability, as far as the server counts tokens."""
    if any(text and not values for text, values in zip(texts, logprobs, strict=True)):
        raise Fault(Cause.NO_LOGPROBS, "no log probabilities, although they were asked for")
    details = usage.completion_tokens_details or _Details()
    total = (usage.completion_tokens or 0) - (details.reasoning_tokens or 0)
    given = sum(map(len, logprobs))
    if given + asked.uncounted * asked.count < total:
        raise Fault(Cause.NO_LOGPROBS, f"log probabilities of {given} tokens of {total}, although all were asked for")


def _shares(total: int, count: int) -> list[int]:
    """Return an equal share of the tokens for each reply."""
    share, rest = divmod(total, count)
    return [share + (number < rest) for number in range(count)]
