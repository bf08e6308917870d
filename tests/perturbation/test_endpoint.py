"""Paraphrases by a model, asked of a real HTTP server on this machine: good replies, bad ones, and faults."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator
from contextlib import closing
from typing import Any

import pytest

pytest.importorskip("httpx", reason="needs the extra serve")

from qlass.errors import Busy, DataError, SettingsError
from qlass.perturbation import rules
from qlass.perturbation.endpoint import REQUEST, Desk, Endpoint, desk, refusal, tidied
from qlass.records import Cost
from tests.policies.local_server import DROP, Server

pytestmark = pytest.mark.usefixtures("direct")

TEXT = "i need a 16 x 22 mat, and price lower than 40.00 dollars"
SETTINGS: dict[str, Any] = {
    "model": "writer", "api_key_env": "", "temperature": 1.0, "max_new_tokens": 60, "concurrency": 4, "timeout_s": 5.0,
    "retries": 0,
}  # fmt: skip
Connect = Callable[..., Desk]


def ok(text: str) -> tuple[int, dict[str, str], str]:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": "stop"}
    usage = {"prompt_tokens": 50, "completion_tokens": len(text.split())}
    return 200, {}, json.dumps({"choices": [choice], "usage": usage})


def reworded(body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
    """Answer with a paraphrase that names its seed, whose number is no number of the instruction."""
    return ok(f"{body['messages'][1]['content']} for me, wish {body['seed']}")


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server(lambda _, body: reworded(body))) as made:
        yield made


@pytest.fixture
def connect(server: Server) -> Connect:
    return lambda **changes: Desk(Endpoint(**{**SETTINGS, "base_url": server.url, **changes}))


def test_what_is_asked(server: Server, connect: Connect) -> None:
    asked = connect()
    found = asked.collect(asked.order(TEXT, 3, 5))
    assert [body["messages"] for body in server.bodies] == [
        [{"role": "system", "content": REQUEST}, {"role": "user", "content": TEXT}]
    ] * 3
    assert {(body["model"], body["temperature"], body["max_tokens"], body["n"]) for body in server.bodies} == {
        ("writer", 1.0, 60, 1)
    }
    assert all("logprobs" not in body for body in server.bodies)
    seeds = {body["seed"] for body in server.bodies}
    assert len(seeds) == 3
    assert set(found.texts) == {f"{TEXT} for me, wish {seed}" for seed in seeds}
    words = len(TEXT.split()) + 4
    assert found.cost == Cost(generated_tokens=3 * words, prompt_tokens=50, policy_calls=1)
    again = asked.collect(asked.order(TEXT, 3, 5))
    assert again == found
    assert set(asked.collect(asked.order(TEXT, 3, 6)).texts).isdisjoint(found.texts)


def test_open_orders_go_out_together(server: Server, connect: Connect) -> None:
    """The endpoint answers several at a time, and what was answered is not asked again."""
    server.seconds = 0.05
    asked = connect(concurrency=4)
    orders = [asked.order(f"{TEXT} {name}", 2, 0) for name in "abcde"]
    assert server.bodies == []
    found = [asked.collect(order) for order in reversed(orders)]
    assert (len(server.bodies), server.peak) == (10, 4)
    for name, one in zip("edcba", found, strict=True):
        assert all(text.startswith(f"{TEXT} {name} ") for text in one.texts)


def test_nothing_is_asked_where_nothing_can_be_said(server: Server, connect: Connect) -> None:
    asked = connect()
    for order in (asked.order(" \n", 3, 0), asked.order("", 1, 0), asked.order(TEXT, 0, 0)):
        found = asked.collect(order)
        assert (found.texts, found.cost) == ((), Cost())
    assert server.bodies == []


BAD = {
    "": "empty",
    " \n ": "empty",
    TEXT: "nothing new",
    f'"{TEXT.upper()}"': "nothing new",
    "a mat, sixteen by 22, for less than 40 dollars": "a number is missing",
    "find me a 16 x 22 mat": "a number is missing",
    "find me a 16 x 22 mat below 4.00 dollars": "a number is missing",
    "a 16 x 22 mat for 40 dollars " * 20: "too long",
}


@pytest.mark.parametrize("reply", BAD)
def test_a_bad_reply_gives_way_to_the_rules(
    server: Server, connect: Connect, caplog: pytest.LogCaptureFixture, reply: str
) -> None:
    server.answer = lambda number, body: ok(reply) if number == 0 else reworded(body)
    asked = connect(concurrency=1)
    with caplog.at_level(logging.WARNING):
        found = asked.collect(asked.order(TEXT, 3, 5))
    seeds = [body["seed"] for body in server.bodies[1:]]
    assert found.texts == (*(f"{TEXT} for me, wish {seed}" for seed in seeds), rules.paraphrases(TEXT, 3, 5)[0])
    assert f"paraphraser=writer replies=3 refused={{{BAD[reply]!r}: 1}}; rules took their place" in caplog.text


def test_replies_that_repeat_each_other(server: Server, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """Also one that says what the rules would: all are different in the end."""
    said = rules.paraphrases(TEXT, 3, 5)[1]
    server.answer = lambda number, body: ok(f"  {said}\n")
    asked = connect()
    found = asked.collect(asked.order(TEXT, 3, 5))
    assert found.texts == (said, *(text for text in rules.paraphrases(TEXT, 3, 5) if text != said))
    assert "refused={'nothing new': 2}" in caplog.text


@pytest.mark.parametrize(
    ("reply", "kept"),
    [
        ("find me a 16 x 22 mat under $40", "find me a 16 x 22 mat under $40"),
        (' "a 22 x 16 mat\n\nbelow 40.0" ', "a 22 x 16 mat below 40.0"),
        ("\u201ca 16x22 mat, at most 40 dollars\u201d", "a 16x22 mat, at most 40 dollars"),
        ("a 16 x 22 mat for 2 pets, 40.00 at most", "a 16 x 22 mat for 2 pets, 40.00 at most"),
    ],
)
def test_a_good_reply(reply: str, kept: str) -> None:
    assert tidied(reply) == kept
    assert refusal(kept, TEXT, ()) == ""


def test_numbers_count_as_often_as_they_stand_there() -> None:
    assert refusal("a mat of 22", "a mat, 22 x 22", ()) == "a number is missing"
    assert refusal("22 by 22: a mat", "a mat, 22 x 22", ()) == ""


def test_an_overloaded_endpoint_is_asked_again(server: Server, connect: Connect) -> None:
    server.fail_first(2, 503, {"Retry-After": "0"})
    asked = connect(retries=2)
    assert len(asked.collect(asked.order(TEXT, 2, 0)).texts) == 2
    assert len(server.bodies) == 4


@pytest.mark.parametrize(
    ("answer", "error", "message"),
    [
        ((503, {}, "busy"), Busy, r"no answer after 1 attempts, the last one failed with HTTP 503: busy"),
        ((DROP, {}, ""), Busy, r"no answer after 1 attempts"),
        ((401, {}, '{"error": {"message": "who are you"}}'), SettingsError, r"HTTP 401: who are you.*api_key_env"),
        ((404, {}, "no such model"), SettingsError, r"HTTP 404: no such model; check base_url .* and model"),
        ((200, {}, "<html>"), DataError, r"not an answer of the OpenAI chat protocol"),
    ],
)
def test_faults_are_those_of_a_policy_server(
    server: Server, connect: Connect, answer: Any, error: type[Exception], message: str
) -> None:
    server.answer = lambda number, body: answer
    asked = connect()
    with pytest.raises(error, match=rf"^paraphraser: {server.url}/?: .*{message}"):
        asked.collect(asked.order(TEXT, 2, 0))
    server.answer = lambda number, body: reworded(body)
    assert len(asked.collect(asked.order(TEXT, 2, 0)).texts) == 2  # nothing is left of what failed


def test_a_key_that_is_not_there(connect: Connect, server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = connect(api_key_env="A_KEY_OF_OURS")
    with pytest.raises(SettingsError, match=r"^paraphraser: .*A_KEY_OF_OURS is not set"):
        asked.collect(asked.order(TEXT, 1, 0))
    monkeypatch.setenv("A_KEY_OF_OURS", "secret")
    asked.collect(asked.order(TEXT, 1, 0))
    assert server.headers[0]["authorization"] == "Bearer secret"


def test_one_desk_for_all_episodes_of_a_process(server: Server) -> None:
    settings = {**SETTINGS, "base_url": server.url}
    assert desk(Endpoint(**settings)) is desk(Endpoint(**settings))
    assert desk(Endpoint(**settings)) is not desk(Endpoint(**{**settings, "model": "other"}))
