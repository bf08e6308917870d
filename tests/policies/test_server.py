"""`ServerPolicy` against a real HTTP server on this machine that speaks the protocol, and one that misbehaves."""

from __future__ import annotations

import json
import math
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from typing import Any

import pytest
from pydantic import TypeAdapter, ValidationError

from qlass.envs import get_definition, make_env
from qlass.envs.core.base import TextEnv
from qlass.errors import Busy, DataError, SettingsError
from qlass.methods.base import Assignment, get_method
from qlass.policies.base import Propose
from qlass.policies.connection import wait_of
from qlass.policies.server import ServerPolicy, ServerSettings
from qlass.records import History, Message
from qlass.validation import problems
from tests.engines import drive

from .local_server import DROP, SETTINGS, Server

httpx = pytest.importorskip("httpx", reason="needs the extra serve")

pytestmark = pytest.mark.usefixtures("direct")

HISTORY: History = (Message("system", "You walk."), Message("user", "cell 1"))


def choice(body: dict[str, Any], index: int, *, logprobs: bool = True) -> dict[str, Any]:
    """Reply with what was asked, so that a test sees which answer belongs to which request."""
    text = f"Thought: {body['messages'][-1]['content']}\nAction: GO {body['seed']} {index}"
    content = [{"token": word, "logprob": -0.5 - index} for word in [*text.split(), "</s>"]]
    return {
        "index": index,
        "message": {"role": "assistant", "content": text},
        "logprobs": {"content": content} if logprobs and body.get("logprobs") else None,
        "finish_reason": "stop",
    }


def ok(body: dict[str, Any], **changes: Any) -> tuple[int, dict[str, str], str]:
    """Answer as vLLM does; `changes` replace top-level fields (None: left out)."""
    choices = [choice(body, index) for index in range(body["n"])]
    words = sum(len(one["message"]["content"].split()) + 1 for one in choices)
    prompt = sum(len(message["content"].split()) for message in body["messages"])
    answer = {"id": "x", "choices": choices, "usage": {"prompt_tokens": prompt, "completion_tokens": words}} | changes
    return 200, {}, json.dumps({name: value for name, value in answer.items() if value is not None})


@pytest.fixture
def server() -> Iterator[Server]:
    with closing(Server(lambda _, body: ok(body))) as made:
        yield made


@pytest.fixture
def connect(server: Server) -> Iterator[Callable[..., ServerPolicy]]:
    """Return a function that makes policies of the server; short pauses between attempts."""
    made: list[ServerPolicy] = []

    def build(encode: Any = None, **changes: Any) -> ServerPolicy:
        settings = {**SETTINGS, "base_url": server.url, "backoff_s": 0.001}
        made.append(ServerPolicy(ServerSettings(**settings | changes), str.lower, encode))
        return made[-1]

    yield build
    for policy in made:
        policy.close()


Connect = Callable[..., ServerPolicy]


def ask(*seeds: int, text: str = "cell 1", temperature: float = 0.7) -> Propose:
    return Propose((HISTORY[0], Message("user", text)), seeds, temperature)


def test_what_is_sent(server: Server, connect: Connect) -> None:
    connect().propose([ask(5)])
    assert server.bodies == [
        {
            "model": "llama",
            "messages": [{"role": "system", "content": "You walk."}, {"role": "user", "content": "cell 1"}],
            "max_tokens": 9,
            "temperature": 0.7,
            "top_p": 1.0,
            "n": 1,
            "logprobs": True,
            "seed": 5,
        }
    ]
    assert "authorization" not in server.headers[0]
    connect(logprobs=False, stop=("\nObservation:",), extra={"top_k": -1, "top_p": 0.9}).propose([ask(5)])
    assert server.bodies[1] == {
        **{name: value for name, value in server.bodies[0].items() if name != "logprobs"},
        "stop": ["\nObservation:"],
        "top_k": -1,
        "top_p": 0.9,
    }


def test_one_request_per_seed(server: Server, connect: Connect) -> None:
    (answer,) = connect().propose([ask(3, 1 << 62 | 4, 5)])
    assert sorted(body["seed"] for body in server.bodies) == [3, 4, 5]  # 31 bits of each
    first = answer.proposals[0]
    assert first.text == "Thought: cell 1\nAction: GO 3 0"
    assert (first.thought, first.action, first.valid) == ("cell 1", "go 3 0", True)
    assert (first.tokens, first.logprob) == (8, -4.0)
    assert [proposal.action for proposal in answer.proposals] == ["go 3 0", "go 4 0", "go 5 0"]
    assert answer.prompt_tokens == 4


def test_one_request_with_n(server: Server, connect: Connect) -> None:
    """Replies come by their index, whatever their order; tokens of each are those of its log probabilities."""
    server.answer = lambda _, body: ok(body, choices=[choice(body, index) for index in (2, 0, 1)])
    (answer,) = connect(request_per_seed=False).propose([ask(3, 4, 5)])
    assert [(body["seed"], body["n"]) for body in server.bodies] == [(3, 3)]
    assert [proposal.action for proposal in answer.proposals] == ["go 3 0", "go 3 1", "go 3 2"]
    assert [(proposal.tokens, proposal.logprob) for proposal in answer.proposals] == [
        (8, -4.0),
        (8, -12.0),
        (8, -20.0),
    ]


def test_token_ids_are_sent(server: Server, connect: Connect) -> None:
    """The older protocol: the prompt as ids, texts and log probabilities elsewhere in the answer."""

    def answer(_: int, body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        text = f"Thought: {body['prompt']}\nAction: GO {body['seed']}"
        choices = [{"index": 0, "text": text, "logprobs": {"token_logprobs": [-0.25, -0.5]}, "finish_reason": "stop"}]
        return 200, {}, json.dumps({"choices": choices, "usage": {"prompt_tokens": 3, "completion_tokens": 2}})

    server.answer = answer
    policy = connect(api="completions", encode=lambda history: [len(message.content) for message in history])
    (found,) = policy.propose([ask(3, 4)])
    first, second = sorted(server.bodies, key=lambda body: body["seed"])  # they are sent side by side
    sent = {
        "model": "llama",
        "prompt": [9, 6],
        "max_tokens": 9,
        "temperature": 0.7,
        "top_p": 1.0,
        "n": 1,
        "logprobs": 0,
    }
    assert (first, second) == ({**sent, "seed": 3}, {**sent, "seed": 4})
    assert [(one.action, one.thought, one.tokens, one.logprob) for one in found.proposals] == [
        ("go 3", "[9, 6]", 2, -0.75),
        ("go 4", "[9, 6]", 2, -0.75),
    ]
    assert found.prompt_tokens == 3
    with pytest.raises(SettingsError, match="api: found 'completions' without a tokenizer"):
        connect(api="completions")
    server.answer = lambda _, body: (200, {}, json.dumps({"choices": [{"message": {"content": "Action: x"}}]}))
    with pytest.raises(DataError, match="not an answer of the OpenAI completions protocol"):
        policy.propose([ask(3)])


def test_greedy_is_asked_once(server: Server, connect: Connect) -> None:
    (answer,) = connect().propose([ask(3, 4, temperature=0.0)])
    assert [(body["seed"], body["temperature"]) for body in server.bodies] == [(3, 0.0)]
    assert len(answer.proposals) == 2
    assert answer.proposals[0] == answer.proposals[1]


def test_answers_keep_the_order_of_the_requests(server: Server, connect: Connect) -> None:
    server.answer = lambda number, body: (time.sleep(0.02 * (number % 3 == 0)), ok(body))[1]
    asked = [ask(number, number + 50, text=f"cell {number}") for number in range(20)]
    for found in (connect().propose(asked), connect(concurrency=1).propose(asked)):
        for number, answer in enumerate(found):
            assert [p.action for p in answer.proposals] == [f"go {number} 0", f"go {number + 50} 0"]
            assert {p.thought for p in answer.proposals} == {f"cell {number}"}
    assert connect().propose([]) == []


@pytest.mark.parametrize("concurrency", [1, 3])
def test_bounded_concurrency(server: Server, connect: Connect, concurrency: int) -> None:
    server.seconds = 0.05
    connect(concurrency=concurrency).propose([ask(number) for number in range(9)])
    assert server.peak == concurrency


def test_servers_that_say_less(server: Server, connect: Connect, caplog: pytest.LogCaptureFixture) -> None:
    """No usage: log probabilities count the tokens. No log probabilities: usage does. Neither: it is logged, once."""
    server.answer = lambda _, body: ok(body, usage=None)
    (answer,) = connect().propose([ask(1)])
    assert (answer.proposals[0].tokens, answer.proposals[0].logprob, answer.prompt_tokens) == (8, -4.0, 0)
    server.answer = lambda _, body: ok(body)
    (answer,) = connect(logprobs=False).propose([ask(1)])
    assert (answer.proposals[0].tokens, answer.proposals[0].logprob, answer.prompt_tokens) == (8, 0.0, 4)
    server.answer = lambda _, body: ok(body, usage={"completion_tokens": 17, "prompt_tokens": 4})
    (answer,) = connect(logprobs=False, request_per_seed=False).propose([ask(1, 2, 3)])
    assert [proposal.tokens for proposal in answer.proposals] == [6, 6, 5]
    caplog.clear()
    server.answer = lambda _, body: ok(body, usage=None)
    (answer, _) = connect(logprobs=False).propose([ask(1), ask(2)])
    assert (answer.proposals[0].tokens, answer.proposals[0].logprob) == (0, 0.0)
    (record,) = caplog.records
    assert "it does not count all tokens" in record.getMessage()


def test_a_reply_without_text_is_not_an_action(server: Server, connect: Connect) -> None:
    server.answer = lambda _, body: ok(body, choices=[{"message": {"role": "assistant", "content": None}}], usage=None)
    (answer,) = connect().propose([ask(1)])
    assert (answer.proposals[0].text, answer.proposals[0].valid) == ("", False)


@pytest.mark.parametrize("status", [408, 429, 500, 502, 503, DROP])
def test_passing_failures_are_retried(server: Server, connect: Connect, status: int) -> None:
    server.fail_first(3, status)
    (answer,) = connect(retries=3).propose([ask(7)])
    assert answer.proposals[0].action == "go 7 0"
    assert len(server.bodies) == 4
    assert all(body == server.bodies[0] for body in server.bodies)


@pytest.mark.parametrize("status", [429, 500, DROP])
def test_lasting_failures_are_busy(server: Server, connect: Connect, status: int) -> None:
    server.fail_first(99, status)
    found = "Server disconnected" if status == DROP else f"HTTP {status}: busy"
    with pytest.raises(Busy, match=rf"{server.url}/: no answer after 3 attempts.*{found}.*try again") as caught:
        connect(retries=2).propose([ask(7)])
    assert caught.value.exit_code == 75
    assert len(server.bodies) == 3


def test_pauses_grow(server: Server, connect: Connect) -> None:
    server.fail_first(3, 503)
    began = time.monotonic()
    connect(retries=3, backoff_s=0.03).propose([ask(1)])
    assert 0.21 <= time.monotonic() - began < 3  # 0.03 + 0.06 + 0.12


def test_the_server_says_when(server: Server, connect: Connect) -> None:
    server.fail_first(1, 429, {"Retry-After": "0.2"})
    began = time.monotonic()
    connect(backoff_s=30.0).propose([ask(1)])
    assert 0.2 <= time.monotonic() - began < 5


@pytest.mark.parametrize(
    ("value", "seconds"),
    [
        ("3", 3.0), ("1.5", 1.5), ("-1", None), ("", None), ("nan", None), ("soon", None), ("9" * 400, math.inf),
        ("Wed, 21 Oct 2015 07:28:00 GMT", None), ("Wed, 21 Oct 2015", None), ("Wed, 99 Oct 2015 07:28:00 +9999", None),
    ],
)  # fmt: skip
def test_when_the_server_says(value: str, seconds: float | None) -> None:
    """Seconds to come, or a date to come; a longer pause than LONGEST_WAIT_S is cut where it is made."""
    assert wait_of(value) == seconds


def test_a_date_to_come() -> None:
    in_a_minute = datetime.now(UTC) + timedelta(seconds=60)
    for date in (format_datetime(in_a_minute, usegmt=True), format_datetime(in_a_minute.replace(tzinfo=None))):
        assert wait_of(date) == pytest.approx(59, abs=2)


def test_unreachable(connect: Connect, server: Server) -> None:
    server.close()
    with pytest.raises(Busy, match=r"no answer after 2 attempts.*ConnectError.*start the server") as caught:
        connect(retries=1).propose([ask(1), ask(2)])
    assert caught.value.exit_code == 75


def test_no_answer_in_time(connect: Connect, server: Server) -> None:
    server.seconds = 0.4
    server.answer = lambda number, body: (DROP, {}, "")
    with pytest.raises(Busy, match="ReadTimeout"):
        connect(retries=1, timeout_s=0.1).propose([ask(1)])
    assert len(server.bodies) == 2


@pytest.mark.parametrize(
    ("status", "advice"),
    [
        (400, "check model and api"),
        (401, "check the API key"),
        (402, "no credit"),
        (403, "check the API key"),
        (404, "check base_url"),
        (405, "check base_url"),
        (407, "the proxy wants a user"),
        (413, "lower base.max_length"),
        (422, "check model and api"),
        (451, "check model and api"),
        (501, "check model and api"),
    ],
)
def test_refusals_are_not_retried(server: Server, connect: Connect, status: int, advice: str) -> None:
    server.fail_first(99, status, text='{"error": {"message": "not for you", "type": "x"}}')
    with pytest.raises(SettingsError, match=rf"{server.url}/: HTTP {status}: not for you; .*{advice}") as caught:
        connect(concurrency=2).propose([ask(number) for number in range(40)])
    assert caught.value.exit_code == 2
    assert len(server.bodies) < 40  # what was not sent yet is given up


@pytest.mark.parametrize(
    ("status", "text", "advice"),
    [
        (400, "This model's maximum context length is 4096 tokens. However, you requested 5000", "lower base.max_length"),
        (400, '{"error": {"code": 400, "type": "exceed_context_size_error", "message": "no"}}', "lower base.max_length"),
        (422, '{"error": "`inputs` tokens + `max_new_tokens` must be <= 2048", "error_type": "validation"}', "lower"),
        (500, "the request exceeds the available context size. try increasing the context size", "lower base.max_len"),
        (429, '{"error": {"message": "You exceeded your quota", "code": "insufficient_quota"}}', "no credit or quota"),
        (400, '{"error": {"message": "The response was filtered", "code": "content_filter"}}', "content filter"),
        (403, "You are not allowed to request logprobs from this model", "set logprobs: false"),
        (301, "moved", "a redirect to nowhere; set base_url"),
    ],
)  # fmt: skip
def test_words_say_more_than_a_status(server: Server, connect: Connect, status: int, text: str, advice: str) -> None:
    server.fail_first(99, status, text=text)
    with pytest.raises(SettingsError, match=f"HTTP {status}: .*{advice}"):
        connect().propose([ask(1)])
    assert len(server.bodies) == 1


def test_redirects_are_named(server: Server, connect: Connect) -> None:
    """They would turn a POST into a GET."""
    server.fail_first(99, 308, {"Location": "https://elsewhere.example/v1/chat/completions"})
    with pytest.raises(SettingsError, match=r"a redirect to https://elsewhere.example/v1/.*; set base_url"):
        connect().propose([ask(1)])


def test_a_wrong_base_url(server: Server, connect: Connect) -> None:
    with pytest.raises(SettingsError, match="HTTP 404"):
        connect(base_url=server.url.removesuffix("/v1")).propose([ask(1)])
    assert connect(base_url=server.url + "/").propose([ask(1)])[0].proposals[0].valid


@pytest.mark.parametrize(
    "text",
    [
        "<html>welcome</html>",
        "[]",
        "{}",
        "null",
        'data: {"choices": []}\n\ndata: [DONE]',
        '{"choices": [{"message": {"content": 3}}]}',
        '{"choices": [{"message": {"content": [{"type": "image_url", "image_url": "x"}]}}]}',
        '{"choices": [{"message": {"content": "x"}}, {"message": {"content": "y"}}]}',
        '{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": -1}}',
        '{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": true}}',
        '{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": 1e999}}',
        '{"choices": [{"text": "completion"}]}',
        '{"choices": [{"message": {}}]}',
        '{"choices": "no"}',
        '{"choices": [{"message": {"content": "x"}}], "usage": {"completion_tokens": "many"}}',
    ],
)
def test_answers_of_another_protocol(server: Server, connect: Connect, text: str) -> None:
    server.fail_first(99, 200, text=text)
    with pytest.raises(DataError, match="(not an answer of the OpenAI chat protocol|part of type|2 replies).*; check"):
        connect().propose([ask(1)])
    assert len(server.bodies) == 1


def test_servers_that_ignore_n(server: Server, connect: Connect) -> None:
    server.answer = lambda _, body: ok({**body, "n": 1})
    with pytest.raises(DataError, match="1 replies instead of 2; set request_per_seed: true"):
        connect(request_per_seed=False).propose([ask(1, 2)])


def test_the_api_key_comes_from_the_environment(
    server: Server, connect: Connect, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("MY_KEY", raising=False)
    with pytest.raises(SettingsError, match="the environment variable MY_KEY is not set"):
        connect(api_key_env="MY_KEY")
    monkeypatch.setenv("MY_KEY", "sk-hidden")
    policy = connect(api_key_env="MY_KEY")
    policy.propose([ask(1)])
    assert server.headers[0]["authorization"] == "Bearer sk-hidden"
    server.fail_first(99, 401, text="wrong key: sk-hidden")
    with pytest.raises(SettingsError, match=r"wrong key: \*\*\*"):
        policy.propose([ask(1)])


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (
            {"base_url": "127.0.0.1:8000/v1"},
            "base_url: found '127.0.0.1:8000/v1' (text), expected an address that starts with http:// or https://",
        ),
        ({"api": "responses"}, "api: found 'responses' (text), expected one of completions, chat"),
        ({"max_new_tokens": 0}, "max_new_tokens: found 0, expected a whole number >= 1"),
        ({"concurrency": 0}, "concurrency: found 0, expected a whole number >= 1"),
        ({"retries": -1}, "retries: found -1, expected a whole number >= 0"),
        ({"backoff_s": -0.1}, "backoff_s: found -0.1, expected a number >= 0"),
        ({"timeout_s": 0.0}, "timeout_s: found 0.0, expected a number > 0"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)  # fmt: skip
def test_wrong_settings(connect: Connect, wrong: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError) as caught:
        connect(**wrong)
    assert [str(one) for one in problems(caught.value, TypeAdapter(ServerSettings))] == [message]


@pytest.mark.parametrize("url", ["http://localhost:port/v1", "http:///v1"])
def test_an_address_that_is_none(connect: Connect, url: str) -> None:
    with pytest.raises(SettingsError, match=f"base_url: found '{url}', which "):
        connect(base_url=url)


def test_given_actions_cannot_be_scored(server: Server, connect: Connect) -> None:
    with pytest.raises(SettingsError, match="candidates: generate"):
        connect().propose([Propose(HISTORY, (1,), 0.7, ("go east",))])
    assert server.bodies == []


def test_an_episode_through_a_server(server: Server, connect: Connect) -> None:
    """The search needs nothing of a policy but `propose`: corridor, played by a model that walks east."""

    def walk(_: int, body: dict[str, Any]) -> tuple[int, dict[str, str], str]:
        return ok(body, choices=[{"message": {"content": "Thought: On.\nAction: Go East"}}])

    server.answer = walk
    corridor = get_definition("corridor")
    options = {"length": 5, "rooms": 3}
    spec = next(corridor.panels(options, "train", 0))

    def start(env: TextEnv) -> Any:
        greedy = get_method("greedy")
        return greedy.routine(Assignment(env, corridor, spec, "sft", number=0, seed=0), greedy.settings())

    ((_, (episode,)),) = drive([start], [make_env(corridor, options, 6)], connect(logprobs=False))
    assert [step.action for step in episode.steps] == ["go east"] * 6
    assert episode.steps[-1].truncated
    assert [len(body["messages"]) for body in server.bodies] == [2, 4, 6, 8, 10, 12]
    assert server.bodies[-1]["messages"][2] == {"role": "assistant", "content": "Thought: On.\nAction: go east"}
    assert (episode.cost.policy_calls, episode.cost.env_steps) == (6, 6)


ONE = f"ServerSettings(**{SETTINGS | {'base_url': 'http://127.0.0.1:1/v1'}})"


def run_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.strip()


def test_nothing_heavy_is_imported() -> None:
    """Neither the module nor a policy needs a model library, and the module itself not even httpx."""
    code = f"""
import sys
from qlass.policies.server import ServerPolicy, ServerSettings
print("httpx" in sys.modules)
ServerPolicy({ONE}, str.lower).close()
print(sorted({{"torch", "transformers", "numpy", "pandas", "mlflow"}} & set(sys.modules)))
"""
    assert run_python(code).splitlines() == ["False", "[]"]


def test_without_httpx() -> None:
    code = f"""
import sys
sys.modules["httpx"] = None
from qlass.errors import DependencyNotInstalled
from qlass.policies.server import ServerPolicy, ServerSettings
try:
    ServerPolicy({ONE}, str.lower)
except DependencyNotInstalled as error:
    print(error)
"""
    assert "pip install qlass[serve]" in run_python(code)
