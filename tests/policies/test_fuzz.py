"""Whatever a server sends, `propose` returns what can be stored, or raises an error of ours: never a traceback."""

from __future__ import annotations

import copy
import gzip
import json
import math
import re
from collections.abc import Iterator
from contextlib import closing
from functools import cache
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from qlass.envs import get_definition
from qlass.errors import QlassError
from qlass.jsonl import from_json, to_json
from qlass.policies.base import Propose
from qlass.policies.replies import Asked, Fault, read, refusal
from qlass.policies.server import ServerPolicy, ServerSettings
from qlass.records import Message, Proposal

from .local_server import SETTINGS
from .raw_server import RawServer

pytest.importorskip("httpx", reason="needs the extra serve")

TEXT = "Thought: On.\nAction: go east"
TOKENS = [{"token": word, "logprob": -0.5, "bytes": None, "top_logprobs": []} for word in [*TEXT.split(), "</s>"]]
CHAT: dict[str, Any] = {
    "id": "x",
    "object": "chat.completion",
    "model": "llama",
    "choices": [
        {
            "index": 0,
            "message": {"role": "assistant", "content": TEXT, "refusal": None, "tool_calls": []},
            "logprobs": {"content": TOKENS, "refusal": None},
            "finish_reason": "stop",
        },
    ],
    "usage": {
        "prompt_tokens": 4,
        "completion_tokens": len(TOKENS),
        "completion_tokens_details": {"reasoning_tokens": 0},
    },
}
COMPLETION: dict[str, Any] = {
    "id": "x",
    "choices": [
        {
            "index": 0,
            "text": TEXT,
            "logprobs": {"tokens": TEXT.split(), "token_logprobs": [-0.5] * 5, "text_offset": [0] * 5},
            "finish_reason": "stop",
        },
    ],
    "usage": {"prompt_tokens": 4, "completion_tokens": 5},
}
PARTS = copy.deepcopy(CHAT)
PARTS["choices"][0]["message"]["content"] = [
    {"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]},
    {"type": "text", "text": TEXT},
]
ERROR = {"error": {"code": "429", "message": "slow down", "type": "rate_limit_error", "metadata": {"raw": "x"}}}
VALID = (CHAT, COMPLETION, PARTS, ERROR)

words = st.sampled_from(
    [
        "error",
        "abort",
        "content_filter",
        "choices",
        "message",
        "text",
        "thinking",
        "429",
        "-1",
        "nan",
        "-inf",
        "\ud800",
        "\x00",
    ]
)
anything = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | words | st.text(st.characters(exclude_categories=())),
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(words | st.text(max_size=5), inner, max_size=4),
    max_leaves=12,
)  # fmt: skip
asked = st.builds(
    Asked, st.sampled_from(["chat", "completions"]), st.sampled_from([1, 1, 2]), st.booleans(), st.just(1)
)


@st.composite
def mutations(draw: st.DrawFn) -> Any:
    """Change a valid answer at up to three places: another value there, the place gone, or a list entry twice."""
    value = copy.deepcopy(draw(st.sampled_from(VALID)))
    for _ in range(draw(st.integers(1, 3))):
        at: Any = value
        while True:
            keys = list(at) if isinstance(at, dict) else list(range(len(at)))
            if not keys:
                break
            key = draw(st.sampled_from(keys))
            if isinstance(at[key], dict | list) and draw(st.booleans()):
                at = at[key]
                continue
            change = draw(st.sampled_from(["replace", "remove", "twice"]))
            if change == "replace":
                at[key] = draw(anything)
            elif change == "remove":
                del at[key]
            elif isinstance(at, list):
                at.append(copy.deepcopy(at[key]))
            break
    return value


def check_stored(proposals: list[Proposal]) -> None:
    """Check that the proposals come back as they are from what is stored, and that their numbers are ones."""
    for proposal in proposals:
        assert from_json(Proposal, json.loads(json.dumps(to_json(proposal), allow_nan=False))) == proposal
        assert proposal.text.encode("utf-8").decode("utf-8") == proposal.text
        assert math.isfinite(proposal.logprob)
        assert proposal.logprob <= 1
        assert proposal.tokens >= 0


def check_read(content: bytes, wanted: Asked) -> None:
    try:
        answer = read(content, wanted)
    except Fault as fault:
        found = str(fault)
    else:
        assert len(answer.replies) == wanted.count
        assert answer.prompt_tokens >= 0
        check_stored([Proposal(one.text, "", "", False, one.tokens, one.logprob) for one in answer.replies])
        return
    assert found.isprintable()
    assert len(found) < 500


@settings(max_examples=100, deadline=None)
@given(anything, asked)
def test_any_json(value: Any, wanted: Asked) -> None:
    check_read(json.dumps(value).encode(), wanted)


@settings(max_examples=300, deadline=None)
@given(mutations(), asked, st.sampled_from(["utf-8", "utf-8-sig", "utf-16", "utf-32-le"]), st.booleans())
def test_any_change_of_a_valid_answer(value: Any, wanted: Asked, encoding: str, ascii: bool) -> None:
    check_read(json.dumps(value, ensure_ascii=ascii).encode(encoding, "surrogatepass"), wanted)


@settings(max_examples=100, deadline=None)
@given(st.binary() | st.binary(max_size=9).map(lambda start: start + json.dumps(CHAT).encode()), asked)
def test_any_bytes(content: bytes, wanted: Asked) -> None:
    check_read(content, wanted)


@settings(max_examples=100, deadline=None)
@given(st.integers(100, 599), anything | mutations(), st.text())
def test_any_refusal(status: int, value: Any, location: str) -> None:
    fault = refusal(status, json.dumps(value).encode(), logprobs=True, location=location)
    assert str(fault).isprintable()
    assert str(fault).startswith(f"HTTP {status}: ")


@pytest.mark.parametrize("depth", [90, 400, 900, 990, 1100, 100_000])
@pytest.mark.parametrize(
    "around", ["%s", '{"error": %s}', '{"choices": [%s]}', '{"choices": [{"message": {"content": %s}}]}']
)
def test_values_inside_values(depth: int, around: str) -> None:
    for opens, closes in (("[", "]"), ('{"error":', "}"), ('{"message":', "}")):
        content = (around % (opens * depth + "1" + closes * depth)).encode()
        check_read(content, Asked("chat", 1, True))
        assert str(refusal(500, content, logprobs=True)).startswith("HTTP 500: ")


headers = st.dictionaries(
    st.sampled_from(
        ["Content-Type", "Content-Encoding", "Retry-After", "Location", "Set-Cookie", "Transfer-Encoding", "Content-Length", "X-Odd", "Connection"]
    ),
    st.sampled_from(
        [
            "text/html", "text/event-stream", "application/json; charset=utf-7", "application/json; charset=hex", "a; charset=\xff",
            "gzip", "deflate", "br", "zstd", "gzip, gzip", "identity", "chunked", "-1", "0", "7", "nan", "inf", "1e999", "9" * 5000,
            "Wed, 21 Oct 2015 07:28:00 GMT", "Fri, 31 Dec 9999 23:59:59 -9999", "http://[::1", "//", "/v1", "ftp://x", "http://h:99999/",
            "a=b; expires=never; domain=\xe9", "close", "\x80", "",
        ]
    ),
    max_size=4,
)  # fmt: skip


@pytest.fixture(scope="module")
def raw() -> Iterator[RawServer]:
    with closing(RawServer()) as made:
        yield made
    for each in POLICIES:
        each.close()


POLICIES: list[ServerPolicy] = []


@cache
def policy(url: str, **changes: Any) -> ServerPolicy:
    """Return the same policy for the same settings: what one answer leaves behind must not disturb the next one."""
    values = {**SETTINGS, "base_url": url, "retries": 0, "timeout_s": 2.0} | changes
    encode = (lambda _: (1, 2)) if values["api"] == "completions" else None
    POLICIES.append(ServerPolicy(ServerSettings(**values), get_definition("corridor").normalise_action, encode))
    return POLICIES[-1]


def check_proposed(url: str, **changes: Any) -> None:
    try:
        (answer,) = policy(url, **changes).propose([Propose((Message("user", "cell 1"),), (1,), 0.7)])
    except QlassError as error:
        found = str(error)
    else:
        check_stored(list(answer.proposals))
        return
    assert re.match(r"http://127.0.0.1:\d+/v1/: ", found)
    assert found.isprintable()


@settings(max_examples=200, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    st.integers(100, 599) | st.sampled_from([200]),
    headers,
    mutations().map(lambda value: json.dumps(value).encode())
    | st.sampled_from([json.dumps(value).encode() for value in VALID])
    | st.sampled_from(
        [gzip.compress(json.dumps(CHAT).encode()), gzip.compress(b"x" * 999)[:-9], b"<html>Log in</html>"]
    )
    | st.binary(),
    st.sampled_from(["chat", "completions"]),
    st.booleans(),
)
def test_any_answer(
    raw: RawServer, status: int, fields: dict[str, str], body: bytes, api: str, logprobs: bool
) -> None:
    lines = [f"HTTP/1.1 {status} odd", *(f"{name}: {value}" for name, value in fields.items())]
    raw.answer = "\r\n".join([*lines, "", ""]).encode("latin-1") + body
    check_proposed(raw.url, api=api, logprobs=logprobs)


@settings(max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.binary() | st.binary().map(lambda rest: b"HTTP/1.1 200 OK\r\n" + rest))
def test_what_is_no_http(raw: RawServer, answer: bytes) -> None:
    raw.answer = answer
    check_proposed(raw.url)
