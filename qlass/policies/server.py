"""A policy behind any server that speaks an OpenAI protocol: vLLM, SGLang, hosted APIs.

With `api: completions` the prompt is sent as token ids, the very ones that the policy was trained on; the server must know
the tokenizer's end of turn. With `api: chat` messages are sent, and the server renders them with the chat template of its
model. Nothing here needs torch.
"""

from __future__ import annotations

import logging
import os
import time
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import AfterValidator, Field

from qlass.errors import Busy, DataError, DependencyNotInstalled, SettingsError
from qlass.policies.base import Propose, Proposed
from qlass.prompts import parse_reply
from qlass.records import History, Proposal
from qlass.settings import NonNegative, Requests, Retries, Seconds, Section, Tokens

if TYPE_CHECKING:
    import httpx

SHOWN = 300
"""Characters of a server's answer that an error message quotes."""


def _with_scheme(url: str) -> str:
    if not url.startswith(("http://", "https://")):
        raise ValueError("an address that starts with http:// or https://")
    return url


LONGEST_WAIT_S = 60.0
"""Longest pause before a request is sent again, whatever the server asks for."""


class Server(Section):
    """Where the server is and how it is asked."""

    base_url: Annotated[str, AfterValidator(_with_scheme)]
    """Address up to and including the version, for example `http://127.0.0.1:8000/v1`; `{policy}` and `{env}` in it
    are filled in."""
    model: str
    """Name under which the server offers the model; `{policy}` and `{env}` in it are filled in."""
    api: Literal["completions", "chat"]
    """Protocol: `completions` sends token ids (vLLM, SGLang), `chat` sends messages (hosted APIs)."""
    api_key_env: str
    """Name of the environment variable that holds the API key; empty: no key is sent."""
    concurrency: Requests
    """Requests that one process has in flight at most."""
    timeout_s: Seconds
    """Longest wait for one answer, and for a connection."""
    retries: Retries
    """How often a request is sent again after 408, 429, 5xx or a broken connection."""
    request_per_seed: bool
    """`true`: one request for each reply, so that a reply depends on its own seed only. `false`: one request with `n`
    replies, which is cheaper for the server; the replies then depend on the first seed and `n`."""
    logprobs: bool
    """Whether log probabilities are asked for, which Best-of-N by likelihood and `qlass_adaptive` need; some hosted
    APIs refuse that."""
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
            SettingsError: the URL is no URL, no `encode` was given though it is needed, or the environment variable of the API key is not set.
            DependencyNotInstalled: httpx is missing.
        """
        httpx = _import_httpx()
        if settings.api == "completions" and encode is None:
            raise SettingsError("api: found 'completions' without a tokenizer; allowed: chat, or give `encode`")
        self._encode = encode
        self._failures: tuple[type[Exception], ...] = (httpx.RequestError,)
        self._settings, self._normalise, self._key = settings, normalise, _api_key(settings.api_key_env)
        limits = httpx.Limits(max_connections=settings.concurrency, max_keepalive_connections=settings.concurrency)
        headers = {"Authorization": f"Bearer {self._key}"} if self._key else {}
        try:
            self._client = httpx.Client(
                base_url=settings.base_url, headers=headers, timeout=settings.timeout_s, limits=limits
            )
        except httpx.InvalidURL as error:
            raise SettingsError(f"base_url: found {settings.base_url!r}, which is not a URL: {error}") from error
        if not self._client.base_url.host:
            raise SettingsError(f"base_url: found {settings.base_url!r}, which names no host")

    def close(self) -> None:
        """Close the connections."""
        self._client.close()

    def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
        """Answer each request; see `Policy`. At temperature 0 a history is asked once, whatever its number of seeds.

        Token counts and log probabilities are the server's; 0 where it gives none.

        Raises:
            Busy: the server cannot be reached or stays overloaded; trying again later may work.
            SettingsError: the server refuses a request (4xx), or actions to choose from were given.
            DataError: an answer is not what the protocol promises.
        """
        bodies = [(index, body) for index, request in enumerate(requests) for body in self._bodies(request)]
        with ThreadPoolExecutor(self._settings.concurrency, "qlass-server-policy") as pool:
            # `map` gives up on requests not yet sent as soon as one fails.
            answers = list(pool.map(self._ask, [body for _, body in bodies]))
        found: list[list[Proposal]] = [[] for _ in requests]
        prompt_tokens = [0] * len(requests)
        for (index, body), answer in zip(bodies, answers, strict=True):
            proposals, prompt_tokens[index] = self._read(answer, body["n"])
            found[index].extend(proposals)
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

    def _ask(self, body: Mapping[str, Any]) -> httpx.Response:
        """Send one request, again where that may help."""
        settings, problem = self._settings, ""
        path = "chat/completions" if settings.api == "chat" else "completions"
        for attempt in range(settings.retries + 1):
            pause = settings.backoff_s * 2**attempt
            try:
                response: httpx.Response = self._client.post(path, json=body)
            except self._failures as error:
                problem = f"{type(error).__name__}: {error}"
            else:
                if response.is_success:
                    return response
                problem = f"HTTP {response.status_code}: {self._shown(response)}"
                if response.status_code not in (408, 429) and not response.is_server_error:
                    raise SettingsError(
                        f"{self._client.base_url}: refuses a request with {problem}; check base_url, model, the API key "
                        "and the length of the conversation that the server allows"
                    )
                pause = _retry_after(response, pause)
            if attempt < settings.retries:
                time.sleep(min(pause, LONGEST_WAIT_S))
        raise Busy(
            f"{self._client.base_url}: no answer after {settings.retries + 1} attempts, the last one failed with "
            f"{problem}; start the server, or check base_url, and try again"
        )

    def _read(self, response: httpx.Response, count: int) -> tuple[list[Proposal], int]:
        """Return the proposals of one answer, and the prompt's tokens."""
        chat = self._settings.api == "chat"
        try:
            answer = response.json()
            choices = sorted(answer["choices"], key=lambda choice: int(choice.get("index", 0)))
            texts = [(choice["message"]["content"] if chat else choice["text"]) or "" for choice in choices]
            logprobs = [_logprobs(choice) for choice in choices]
            usage = answer.get("usage") or {}
            completion, prompt = int(usage.get("completion_tokens") or 0), int(usage.get("prompt_tokens") or 0)
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise self._unexpected(self._shown(response)) from error
        if len(choices) != count:
            raise self._unexpected(f"{len(choices)} replies instead of {count}; set request_per_seed")
        tokens = _split_tokens(completion, logprobs)
        return [self._proposal(*one) for one in zip(texts, logprobs, tokens, strict=True)], prompt

    def _proposal(self, text: str, logprobs: Sequence[float], tokens: int) -> Proposal:
        # JSON can say half of a surrogate pair, which is no text and cannot be stored.
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
        thought, action, parsed = parse_reply(text)
        return Proposal(text, thought, self._normalise(action), parsed, tokens, float(sum(logprobs)))

    def _shown(self, response: httpx.Response) -> str:
        """Return the beginning of an answer's text, without the API key (some servers repeat it)."""
        text = response.text.replace(self._key, "***") if self._key else response.text
        return text[:SHOWN].strip()

    def _unexpected(self, found: str) -> DataError:
        return DataError(
            f"{self._client.base_url}: not an answer of the OpenAI {self._settings.api} protocol: {found}; check base_url (it ends with "
            "the version, as in http://127.0.0.1:8000/v1)"
        )


def _import_httpx() -> Any:
    try:
        import httpx
    except ImportError as error:
        raise DependencyNotInstalled("a policy behind a server needs httpx: pip install qlass[serve]") from error
    logging.getLogger("httpx").setLevel(logging.WARNING)  # it logs a line per request, and there are very many
    return httpx


def _api_key(variable: str) -> str:
    """Read the API key; an empty variable name means that none is wanted."""
    key = os.environ.get(variable, "") if variable else ""
    if variable and not key:
        raise SettingsError(f"api_key_env: the environment variable {variable} is not set; set it to the API key")
    return key


def _retry_after(response: httpx.Response, otherwise: float) -> float:
    """Return the seconds that the server asks to wait; it may also give a date, which is ignored."""
    value = response.headers.get("retry-after", "")
    return float(value) if value.replace(".", "", 1).isdecimal() else otherwise


def _logprobs(choice: Mapping[str, Any]) -> list[float]:
    """Return the log probability of each token of a choice; empty where the server gives none."""
    given = choice.get("logprobs") or {}
    if "token_logprobs" in given:
        return [float(value) for value in given["token_logprobs"] or ()]
    return [float(token["logprob"]) for token in given.get("content") or ()]


def _split_tokens(total: int, logprobs: Sequence[Sequence[float]]) -> list[int]:
    """Return the tokens of each choice: as counted by its log probabilities, or else an equal share of the usage."""
    if len(logprobs) > 1 and all(logprobs):
        return [len(one) for one in logprobs]
    share, rest = divmod(total, len(logprobs))
    shares = [share + (number < rest) for number in range(len(logprobs))]
    return shares if total else [len(one) for one in logprobs]
