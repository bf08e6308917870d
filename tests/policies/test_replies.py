"""The parser of replies, on what servers of many kinds send."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest

from qlass.errors import Busy, DataError, SettingsError
from qlass.policies.replies import FLOOR, Answer, Asked, Cause, Fault, read, refusal

CHAT = Asked("chat", 1, logprobs=False)
LIKELY = Asked("chat", 1, logprobs=True)
OLD = Asked("completions", 1, logprobs=True)
GO = "Action: go"


def message(content: Any = GO, **fields: Any) -> dict[str, Any]:
    """Return a chat answer with one choice; a field may replace those of the choice or of the message."""
    choice: dict[str, Any] = {"index": 0, "finish_reason": "stop", "logprobs": None}
    return {
        "choices": [
            choice
            | {"message": {"role": "assistant", "content": content} | fields.pop("message", {})}
            | fields.pop("choice", {})
        ],
        "usage": {"prompt_tokens": 4, "completion_tokens": 2},
    } | fields


def likely(*values: Any, text: str = GO, tokens: Any = None) -> dict[str, Any]:
    """Return a chat answer with log probabilities."""
    content = [{"token": "x", "logprob": value} for value in values]
    usage = {"prompt_tokens": 4, "completion_tokens": len(values) if tokens is None else tokens}
    return message(text, choice={"logprobs": {"content": content}}, usage=usage)


def old(logprobs: Any, **usage: Any) -> dict[str, Any]:
    return {"choices": [{"text": GO, "index": 0, "logprobs": logprobs}], "usage": {"prompt_tokens": 4} | usage}


def parse(value: Any, asked: Asked = CHAT) -> Answer:
    content = value if isinstance(value, bytes) else json.dumps(value).encode()
    return read(content, asked)


def fault(value: Any, asked: Asked = CHAT) -> tuple[Cause, str]:
    with pytest.raises(Fault) as caught:
        parse(value, asked)
    return caught.value.cause, str(caught.value)


def test_every_cause_says_what_to_do() -> None:
    assert {cause.error for cause in Cause} == {Busy, SettingsError, DataError}
    assert all(cause.passes == (cause.error is Busy) for cause in Cause)
    assert len({cause.advice for cause in Cause}) == len(Cause)


@pytest.mark.parametrize(
    ("value", "text"),
    [
        (message(), GO),
        (message(""), ""),
        (message(None), ""),
        (message(None, message={"refusal": "I cannot"}), "I cannot"),
        (message("x", message={"reasoning_content": "hm", "reasoning": "hm"}), "x"),
        (message([]), ""),
        (message(["a", "b"]), "ab"),
        (message([{"type": "text", "text": "a", "annotations": []}, {"type": "output_text", "text": "b"}]), "ab"),
        (message([{"type": "thinking", "thinking": [{"type": "text", "text": "hm"}]}, {"type": "text", "text": "a"}]), "a"),
        (message([{"type": "reasoning", "text": "hm"}, {"text": "a"}]), "a"),
        (message([{"type": "refusal", "refusal": "no"}]), "no"),
        (message([{"type": "text", "text": None}]), ""),
        (message("a\x00b\u2028c\u0085d\ufeffe\x1b[0m"), "a\x00b\u2028c\u0085d\ufeffe\x1b[0m"),
        (message("x", choice={"index": "0"}), "x"),
        (message("x", choice={"index": 7}), "x"),
        (message("x", choice={"finish_reason": {"type": "stop", "matched": 2}}), "x"),
        (message("x", error=None), "x"),
        (message("x", usage=None), "x"),
        (b"\xef\xbb\xbf" + json.dumps(message("x")).encode(), "x"),
        (json.dumps(message("\u00fc"), ensure_ascii=False).encode("utf-16"), "\u00fc"),
        (b"\n  \n" + json.dumps(message("x")).encode() + b"\n", "x"),
        (json.dumps(message("a@b")).replace("@", "\n").encode(), "a\nb"),
    ],
)  # fmt: skip
def test_texts(value: Any, text: str) -> None:
    """Contents as lists of parts were reported as epam/ai-dial-analytics-realtime#81."""
    assert parse(value).replies[0].text == text


@pytest.mark.parametrize(
    ("written", "read_as"),
    [
        (r"\ud800", "\ufffd"), (r"a\uDC00b", "a\ufffdb"), (r"\ude00\ud83d", "\ufffd\ufffd"), (r"\ud83d\ude00", "\U0001f600"),
        (r"\\ud800", r"\ud800"), (r"\ud800\\udc00", "\ufffd\\udc00"), (r"\ud83d\ud83d\ude00", "\ufffd\U0001f600"),
    ],
)  # fmt: skip
def test_halves_of_surrogate_pairs(written: str, read_as: str) -> None:
    """JSON can say them, and no file can hold them (QLASS explored for hours and lost the shard to one).

    Reported as UKGovernmentBEIS/inspect_ai#3802 and Aider-AI/aider#3693.
    """
    content = json.dumps(message("@")).replace("@", written).encode()
    assert parse(content).replies[0].text == read_as
    content = json.dumps({"error": {"message": "@", "\ud800": 1}}).replace("@", written).encode()
    fault(content)[1].encode("utf-8")


@pytest.mark.parametrize("content", [b'"a\xffb"', b'"a\xed\xa0\x80b"', b'"a\xe4b"'])
def test_bytes_that_are_no_text(content: bytes) -> None:
    """They are the model's, and count as what it wrote: an action that the environment does not understand."""
    text = parse(json.dumps(message("@")).encode().replace(b'"@"', content)).replies[0].text
    assert text.strip("ab") == "\ufffd" * (len(text) - 2)


@pytest.mark.parametrize(
    ("value", "remark"),
    [
        (message(None, message={"reasoning_content": "hm"}), "thoughts and no text"),
        (message(None, message={"reasoning": "hm"}), "thoughts and no text"),
        (message([{"type": "thinking", "thinking": "hm"}]), "thoughts and no text"),
        (message("", message={"tool_calls": [{"id": "1"}]}), "calls of tools and no text"),
        (message([{"type": "tool_use", "id": "1"}]), "calls of tools and no text"),
        (message("", choice={"finish_reason": "content_filter"}), "content filter cuts"),
        (message(usage=None), "does not count all tokens"),
        (message(usage={}), "does not count all tokens"),
        (message(usage={"prompt_tokens": 4, "completion_tokens": 0}), "does not count all tokens"),
        (message(usage={"completion_tokens": 2}), "does not count all tokens"),
    ],
)
def test_what_is_odd_is_remarked(value: Any, remark: str) -> None:
    (found,) = parse(value).remarks
    assert remark in found
    assert parse(message()).remarks == frozenset()


def test_a_message_that_is_thought_alone() -> None:
    """llama.cpp leaves `content` out, others send null."""
    value = message(message={"reasoning_content": "hm"})
    del value["choices"][0]["message"]["content"]
    assert parse(value).replies[0].text == ""
    del value["choices"][0]["message"]["reasoning_content"]
    assert fault(value) == (Cause.PROTOCOL, "not an answer of the OpenAI chat protocol: a message without content")


@pytest.mark.parametrize(("given", "tokens"), [(2, 2), ("2", 2), (2.0, 2), (0, 0), (None, 0), (1 << 39, 1 << 39)])
def test_counts_of_tokens(given: object, tokens: int) -> None:
    answer = parse(message(usage={"prompt_tokens": given, "completion_tokens": given, "total_tokens": "?"}))
    assert (answer.prompt_tokens, answer.replies[0].tokens) == (tokens, tokens)


@pytest.mark.parametrize("given", [-1, True, "many", "-1", 2.5, 1e999, math.nan, [], {}, 10**400, "9" * 5000])
def test_counts_that_are_none(given: object) -> None:
    cause, found = fault(message(usage={"prompt_tokens": given, "completion_tokens": 1}))
    assert cause is Cause.PROTOCOL
    assert "usage.prompt_tokens: found" in found


def test_replies_come_in_their_order() -> None:
    def choice(index: Any) -> dict[str, Any]:
        return {"index": index, "message": {"content": f"number {index}"}}

    three = Asked("chat", 3, logprobs=False)
    answer = parse(message(choices=[choice(2), choice("0"), choice(1)]), three)
    assert [reply.text for reply in answer.replies] == ["number 0", "number 1", "number 2"]
    assert [reply.tokens for reply in answer.replies] == [1, 1, 0]
    answer = parse(message(choices=[choice(None)] * 3), three)
    assert [reply.text for reply in answer.replies] == ["number None"] * 3
    for indices in ([0, 0, 1], [1, 2, 3], [0, 1, None], [0, 1], [0, 1, 2, 3]):
        cause, _ = fault(message(choices=[choice(index) for index in indices]), three)
        assert (cause.error, cause.advice) == (DataError, "set request_per_seed: true")
    assert fault(message(choices=[choice(0), choice(1)]))[0] is Cause.PROTOCOL  # that setting is as advised already


@pytest.mark.parametrize(
    ("value", "cause"),
    [
        ({"choices": []}, Cause.FAILED),
        ({"choices": None}, Cause.FAILED),
        ({"error": {"code": 429, "message": "slow down"}}, Cause.OVERLOADED),
        ({"error": {"code": "429", "message": "slow down"}}, Cause.OVERLOADED),
        ({"error": {"code": 502, "message": "Provider returned error", "metadata": {"raw": "x"}}}, Cause.FAILED),
        ({"type": "error", "error": {"type": "overloaded_error", "message": "Overloaded"}}, Cause.OVERLOADED),
        ({"error": {"type": "rate_limit_exceeded", "message": "x", "code": None}}, Cause.OVERLOADED),
        ({"error": {"message": "x", "type": "server_error", "code": "internal"}}, Cause.FAILED),
        ({"error": "the engine died"}, Cause.FAILED),
        ({"error": True}, Cause.FAILED),
        ({"error": "", "choices": []}, Cause.FAILED),
        ({"object": "error", "message": "bad", "type": "BadRequestError", "param": None, "code": 400}, Cause.REFUSED),
        ({"error": {"code": 401, "message": "No auth credentials"}}, Cause.KEY),
        ({"error": {"type": "authentication_error", "message": "x"}}, Cause.KEY),
        ({"error": {"code": 402, "message": "Insufficient credits"}}, Cause.CREDIT),
        ({"error": {"code": "insufficient_quota", "message": "x"}}, Cause.CREDIT),
        ({"error": "model 'llama' not found, try pulling it first"}, Cause.ADDRESS),
        ({"error": {"code": 400, "message": "context_length_exceeded"}}, Cause.LENGTH),
        ({"error": {"code": "context_length_exceeded", "message": "x"}}, Cause.LENGTH),
        ({"error": {"code": 403, "message": "flagged by content policy"}}, Cause.FILTER),
        (message(choice={"error": {"code": 429, "message": "slow down"}, "finish_reason": "error"}), Cause.OVERLOADED),
        (message(choice={"finish_reason": "error"}), Cause.FAILED),
        (message(choice={"finish_reason": "abort"}), Cause.FAILED),
        (message(choice={"finish_reason": {"type": "abort", "message": "killed"}}), Cause.FAILED),
        (b"", Cause.CUT),
        (b"\n \n", Cause.CUT),
        (json.dumps(message()).encode()[:-9], Cause.CUT),
        (b'data: {"choices": []}\n\ndata: [DONE]\n', Cause.PROTOCOL),
        (b": OPENROUTER PROCESSING\n\n", Cause.PROTOCOL),
        (b"<!DOCTYPE html><html>Log in</html>", Cause.PROTOCOL),
        (b"OK", Cause.PROTOCOL),
        (b"3", Cause.PROTOCOL),
        ({"type": "message", "role": "assistant", "content": [{"type": "text", "text": "x"}]}, Cause.PROTOCOL),
        ({"model": "llama", "message": {"content": "x"}, "done": True}, Cause.PROTOCOL),
        ({"choices": [None]}, Cause.PROTOCOL),
        ({"choices": [{"message": None}]}, Cause.PROTOCOL),
        (message({"text": "x"}), Cause.PROTOCOL),
        (message([{"type": "image_url", "image_url": "x"}]), Cause.PROTOCOL),
        (message(choice={"index": 1.5}), Cause.PROTOCOL),
    ],
)  # fmt: skip
def test_what_is_no_reply(value: Any, cause: Cause) -> None:
    """An error with status 200 says what it is; only what may pass is tried again.

    Errors inside a success were reported as BerriAI/litellm#8448, UKGovernmentBEIS/inspect_ai#1534 and
    decolua/9router#2727.
    """
    found, words = fault(value)
    assert found is cause
    assert words


def test_words_of_the_server_are_kept() -> None:
    assert (
        fault({"error": {"code": 429, "message": "slow\ndown \x1b[31m"}})[1]
        == "an error in its answer: slow down \ufffd[31m"
    )
    assert fault(b"<html>Log in</html>")[1].endswith("a web page (of a proxy, or of a login): <html>Log in</html>")
    assert len(fault({"error": "x" * 5000})[1]) < 400
    for content in (
        b'{"detail": "no"}',
        b'{"error": {"message": "no"}}',
        b'{"message": "no"}',
        b'{"error": "no"}',
        b"no",
    ):
        assert str(refusal(400, content, logprobs=False)) == "HTTP 400: no"


@pytest.mark.parametrize(
    ("value", "asked", "tokens", "logprob"),
    [
        (likely(-0.5, -0.25), LIKELY, 2, -0.75),
        (likely(-1, 0), LIKELY, 2, -1.0),
        (likely("-0.5", "-0.25"), LIKELY, 2, -0.75),
        (likely(1e-6, -0.25), LIKELY, 2, pytest.approx(-0.25, abs=1e-5)),
        (likely(-0.5, tokens=2), LIKELY, 2, -0.5),  # the end of turn has none
        (likely(text="", tokens=0), LIKELY, 0, 0.0),
        (likely(text="", tokens=1), LIKELY, 1, 0.0),
        (message("", usage=None), LIKELY, 0, 0.0),
        (message(None, usage={"prompt_tokens": 4, "completion_tokens": 0}), LIKELY, 0, 0.0),
        (old({"token_logprobs": [-0.5, -0.25], "tokens": ["a", "b"]}, completion_tokens=2), OLD, 2, -0.75),
        (old({"content": [{"logprob": -0.5}]}), OLD, 1, -0.5),
        (message(usage={"completion_tokens": 9, "prompt_tokens": 4, "completion_tokens_details": {"reasoning_tokens": 7}},
                 choice={"logprobs": {"content": [{"logprob": -0.5}] * 2}}), LIKELY, 9, -1.0),
    ],
)  # fmt: skip
def test_log_probabilities(value: Any, asked: Asked, tokens: int, logprob: float) -> None:
    (reply,) = parse(value, asked).replies
    assert (reply.tokens, reply.logprob) == (tokens, logprob)


@pytest.mark.parametrize("given", [-9999.0, "-inf", -math.inf, -1e308, "-Infinity", -(10**400)])
def test_very_unlikely(given: Any) -> None:
    """A floor and infinity mean the same, and only one of them can be stored; that is said."""
    answer = parse(likely(given, given, -0.5), LIKELY)
    assert answer.replies[0].logprob == 2 * FLOOR - 0.5
    assert "-9999" in next(iter(answer.remarks))


@pytest.mark.parametrize(
    ("value", "asked"),
    [
        (message(), LIKELY),
        (message(choice={"logprobs": {}}), LIKELY),
        (message(choice={"logprobs": {"content": None, "refusal": None}}), LIKELY),
        (message(choice={"logprobs": {"content": []}}), LIKELY),
        (message(" ", usage=None), LIKELY),
        (message("", usage={"completion_tokens": 2, "prompt_tokens": 4}), LIKELY),
        (message(choice={"logprobs": [-0.5]}), LIKELY),
        (message(choice={"logprobs": 3}), LIKELY),
        (likely(None, -0.5), LIKELY),
        (likely(math.nan), LIKELY),
        (likely(math.inf), LIKELY),
        (likely("nan"), LIKELY),
        (likely("much"), LIKELY),
        (likely(True), LIKELY),
        (likely(0.9), LIKELY),
        (likely(-0.5, tokens=3), LIKELY),
        (old(None), OLD),
        (old({"tokens": None, "token_logprobs": None}), OLD),
        (old({"tokens": [], "token_logprobs": []}), OLD),
        (old({"token_logprobs": [None, -0.5]}), OLD),
        (old({"token_logprobs": [-0.5]}, completion_tokens=9), OLD),
    ],
)  # fmt: skip
def test_log_probabilities_that_are_missing_or_none(value: Any, asked: Asked) -> None:
    """Taken as 0, they would make the first rollout the likeliest, and a prior of nothing.

    Reported as ggml-org/llama.cpp#11346, OpenRouterArchived/openrouter-runner#101 and NVIDIA-NeMo/Gym#609.
    """
    cause, found = fault(value, asked)
    assert cause is Cause.NO_LOGPROBS
    assert "log probabilities" in found
    assert "set logprobs: false" in cause.advice
    without = Asked(asked.api, 1, logprobs=False)
    assert parse(value, without).replies[0].logprob == 0.0


def test_log_probabilities_of_one_reply_of_two() -> None:
    choices = [
        {"index": 0, "message": {"content": GO}, "logprobs": {"content": [{"logprob": -0.5}] * 2}},
        {"index": 1, "message": {"content": GO}, "logprobs": None},
    ]
    assert fault(message(choices=choices), Asked("chat", 2, logprobs=True))[0] is Cause.NO_LOGPROBS
    choices[1]["logprobs"] = {"content": [{"logprob": -0.25}]}
    answer = parse(message(choices=choices), Asked("chat", 2, logprobs=True))
    assert [(reply.tokens, reply.logprob) for reply in answer.replies] == [(2, -1.0), (1, -0.25)]


@pytest.mark.parametrize(
    ("status", "passes"),
    [
        *((status, False) for status in (301, 304, 308, 400, 401, 402, 403, 404, 405, 407, 410, 413, 422, 451, 501, 505)),
        *((status, True) for status in (408, 409, 424, 425, 429, 500, 502, 503, 504, 520, 529, 599)),
    ],
)  # fmt: skip
def test_statuses(status: int, passes: bool) -> None:
    assert refusal(status, b"", logprobs=False).cause.passes == passes
