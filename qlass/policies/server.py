"""A policy behind any server that speaks an OpenAI protocol: vLLM, SGLang, hosted APIs.

With `api: completions` the prompt is sent as token ids, the very ones that the policy was trained on; the server must know
the tokenizer's end of turn. With `api: chat` messages are sent, and the server renders them with the chat template of its
model. Nothing here needs torch.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Annotated, Any, TypeAlias

from pydantic import AfterValidator, Field

from qlass.errors import Busy, SettingsError
from qlass.policies.base import Propose, Proposed
from qlass.policies.connection import Connection
from qlass.policies.replies import Answer, Asked, Fault, Protocol, Reply, read, refusal
from qlass.prompts import parse_reply
from qlass.records import History, Proposal
from qlass.settings import NonNegative, Requests, Retries, Seconds, Section, Tokens

logger = logging.getLogger(__name__)


def _with_scheme(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("an address that starts with http:// or https://")
    return url


Address: TypeAlias = Annotated[str, AfterValidator(_with_scheme)]
"""Where a server is, with `http://` or `https://`."""
LONGEST_WAIT_S = 60.0
"""Longest pause before a request is sent again, whatever the server asks for."""


class Server(Section):
    """Where the server is and how it is asked."""

    base_url: Address
    """Address up to and including the version, for example `http://127.0.0.1:8000/v1`; `{policy}` and `{env}` in it
    are filled in."""
    model: str
    """Name under which the server offers the model; `{policy}` and `{env}` in it are filled in."""
    api: Protocol
    """Protocol: `completions` sends token ids (vLLM, SGLang), `chat` sends messages (hosted APIs)."""
    api_key_env: str
    """Name of the environment variable that holds the API key; empty: no key is sent."""
    concurrency: Requests
    """Requests that one process has in flight at most."""
    timeout_s: Seconds
    """Longest wait for one answer, and for a connection."""
    retries: Retries
    """How often a request is sent again after what may pass: 408, 429, most 5xx, an answer without choices, a broken
    connection."""
    request_per_seed: bool
    """`true`: one request for each reply, so that a reply depends on its own seed only. `false`: one request with `n`
    replies, which is cheaper for the server; the replies then depend on the first seed and `n`."""
    logprobs: bool
    """Whether log probabilities are asked for; then a reply without them is an error. `false`, for hosted APIs that
    refuse: Best-of-N by likelihood is not measured, and `qlass_adaptive` runs with `prior: 0` only."""
    version: str
    """Version of the weights that are served, in your words; another one plays again what the server has played."""


class ServerSettings(Server):
    """The same, and what no file of settings says."""

    max_new_tokens: Tokens
    """Of one reply."""
    backoff_s: NonNegative = 0.5
    """Before a request is sent again for the first time; doubles each time, unless the server says when (`Retry-After`)."""
    stop: tuple[str, ...] = ()
    """Strings that end a reply, beside the model's end of turn."""
    extra: dict[str, Any] = Field(default_factory=dict)
    """Further fields of each request, for example `{"top_k": -1}`."""


class ServerPolicy:
    """Proposes what the server's model replies. Close it at the end (`contextlib.closing`)."""

    def __init__(
        self,
        settings: ServerSettings,
        normalise: Callable[[str], str],
        encode: Callable[[History], Sequence[int]] | None = None,
    ) -> None:
        """Prepare the connections; the server is first asked by `propose`.

        Args:
            settings: where the server is and how it is asked.
            normalise: the environment's normal form of an action.
            encode: history to token ids; needed with `api: completions`.

        Raises:
            SettingsError: no `encode` was given though it is needed, or the address, the API key or a variable of the
                environment cannot be used; see `Connection`.
            DependencyNotInstalled: httpx is missing.
        """
        if settings.api == "completions" and encode is None:
            raise SettingsError("api: found 'completions' without a tokenizer; allowed: chat, or give `encode`")
        self._connection = Connection(
            settings.base_url, settings.api_key_env, settings.timeout_s, settings.concurrency
        )
        self._settings, self._normalise, self._encode = settings, normalise, encode
        self._remarked: set[str] = set()

    def close(self) -> None:
        """Close the connections."""
        self._connection.close()

    def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
        """Answer each request; see `Policy`. At temperature 0 a history is asked once, whatever its number of seeds.

        Token counts and log probabilities are the server's. Where it counts no tokens they are 0, which is logged; log
        probabilities that were asked for are all there, and 0.0 where none were asked for.

        Raises:
            Busy: the server cannot be reached, stays overloaded or fails; trying again later may work.
            SettingsError: the server refuses a request for good (the message says why and what to do), gives no log
                probabilities although they were asked for, or actions to choose from were given.
            DataError: an answer is not what the protocol promises.
        """
        bodies = [(index, body) for index, request in enumerate(requests) for body in self._bodies(request)]
        with ThreadPoolExecutor(self._settings.concurrency, "qlass-server-policy") as pool:
            # `map` gives up on requests not yet sent as soon as one fails.
            answers = list(pool.map(self._ask, [body for _, body in bodies]))
        found: list[list[Proposal]] = [[] for _ in requests]
        prompt_tokens = [0] * len(requests)
        for (index, _), answer in zip(bodies, answers, strict=True):
            found[index].extend(map(self._proposal, answer.replies))
            prompt_tokens[index] = answer.prompt_tokens
            self._remark(answer.remarks)
        return [
            Proposed(tuple(proposals * (len(request.seeds) if request.temperature == 0 else 1)), tokens)
            for request, proposals, tokens in zip(requests, found, prompt_tokens, strict=True)
        ]

    def _bodies(self, request: Propose) -> list[dict[str, Any]]:
        """Return the bodies of the HTTP requests that together answer one request."""
        settings = self._settings
        if request.admissible:
            raise SettingsError(
                "candidates: found 'admissible', but a server cannot score given actions; set candidates: generate, "
                "or use the local policy"
            )
        body: dict[str, Any] = {
            "model": settings.model,
            **self._prompt(request.history),
            "max_tokens": settings.max_new_tokens,
            "temperature": request.temperature,
            "top_p": 1.0,  # else a server may take another value from the model's generation_config.json
            "n": 1,
        }
        if settings.logprobs:  # of the sampled token; the older protocol counts the alternatives
            body["logprobs"] = True if settings.api == "chat" else 0
        body |= {"stop": list(settings.stop)} if settings.stop else {}
        body |= settings.extra
        seeds = [seed % (1 << 31) for seed in request.seeds]  # some servers keep seeds in 32 bits
        if request.temperature == 0:
            return [{**body, "seed": seeds[0]}]
        if settings.request_per_seed:
            return [{**body, "seed": seed} for seed in seeds]
        return [{**body, "seed": seeds[0], "n": len(seeds)}]

    def _prompt(self, history: History) -> dict[str, Any]:
        """Return the fields of a request that say the history."""
        if self._settings.api == "completions" and self._encode is not None:
            return {"prompt": list(self._encode(history))}
        return {"messages": [{"role": message.role, "content": message.content} for message in history]}

    def _ask(self, body: Mapping[str, Any]) -> Answer:
        """Send one request, again where that may help; return what it is answered."""
        settings, where = self._settings, self._connection.where
        via = f" (by the proxy that {self._connection.proxied_by} names)" if self._connection.proxied_by else ""
        for attempt in range(settings.retries + 1):
            try:
                return self._answer(body)
            except Fault as fault:
                found, cause = self._connection.hidden(str(fault)), fault.cause
                pause = settings.backoff_s * 2.0 ** min(attempt, 64) if fault.wait_s is None else fault.wait_s
            if not cause.passes:
                raise cause.error(f"{where}{via}: {found}; {cause.advice}")
            if attempt < settings.retries:
                time.sleep(min(pause, LONGEST_WAIT_S))
        raise Busy(
            f"{where}{via}: no answer after {settings.retries + 1} attempts, the last one failed with {found}; "
            f"{cause.advice}, and try again"
        )

    def _answer(self, body: Mapping[str, Any]) -> Answer:
        """Send one request once."""
        settings = self._settings
        received = self._connection.post("chat/completions" if settings.api == "chat" else "completions", body)
        if 200 <= received.status < 300:
            # The end of turn has no text, and some servers leave out the tokens of a stop string, too.
            uncounted = 1 + max(map(len, settings.stop), default=0)
            return read(received.content, Asked(settings.api, body["n"], settings.logprobs, uncounted))
        fault = refusal(received.status, received.content, logprobs=settings.logprobs, location=received.location)
        fault.wait_s = received.wait_s
        raise fault

    def _proposal(self, reply: Reply) -> Proposal:
        thought, action, parsed = parse_reply(reply.text)
        return Proposal(reply.text, thought, self._normalise(action), parsed, reply.tokens, reply.logprob)

    def _remark(self, remarks: frozenset[str]) -> None:
        """Log what is odd about the server's answers, once."""
        for remark in sorted(remarks - self._remarked):
            logger.warning("server=%s remark=%r", self._connection.where, remark)
        self._remarked |= remarks
