"""Paraphrases by a language model behind an OpenAI-compatible chat endpoint (the paper: GPT-3.5-Turbo).

It is asked as a policy behind a server is, and fails as that does. What it replies is checked: a paraphrase that lacks a
number of the instruction, or is none, gives way to one by the rules.
"""

from __future__ import annotations

import logging
import re
from collections import Counter
from collections.abc import Sequence
from concurrent.futures import Future
from contextlib import closing
from dataclasses import dataclass, field
from functools import cache

from qlass.errors import Busy, DataError, DependencyNotInstalled, SettingsError
from qlass.perturbation import rules
from qlass.policies.base import Propose, Proposed
from qlass.policies.server import Address, ServerPolicy, ServerSettings
from qlass.records import Cost, Message
from qlass.seeds import derive_seed
from qlass.settings import Positive, Requests, Retries, Seconds, Section, Tokens

logger = logging.getLogger(__name__)

REQUEST = (
    "Say the request below in other words. Keep all that it asks for: every product, property, option and name is to stay "
    "word by word, and every number and price as it is written. Add nothing. Reply with the new wording alone, on one line."
)
"""The system message; the instruction follows as the user's."""
LONGEST = 3
"""Longest paraphrase, in lengths of the instruction; a longer one is an essay or a loop."""
_ROOM = 40
"""Characters that a paraphrase may have in any case, since the shortest instructions are a word or two."""
_NUMBER = re.compile(r"\d+(?:\.\d+)?")
_QUOTES = "\"'`\N{LEFT DOUBLE QUOTATION MARK}\N{RIGHT DOUBLE QUOTATION MARK}"


class Endpoint(Section):
    """A chat endpoint that says instructions in other words."""

    base_url: Address
    """Address up to and including the version, for example `http://127.0.0.1:8000/v1`."""
    model: str
    """Name under which the endpoint offers the model."""
    api_key_env: str
    """Name of the environment variable that holds the API key; empty: no key is sent."""
    temperature: Positive
    """Temperature of the paraphrases; at 0 they would all be the same."""
    max_new_tokens: Tokens
    """Longest paraphrase."""
    concurrency: Requests
    """Requests that one process has in flight at most."""
    timeout_s: Seconds
    """Longest wait for one answer, and for a connection."""
    retries: Retries
    """How often a request is sent again after what may pass: 408, 429, most 5xx, an answer without choices, a broken
    connection."""


@dataclass(frozen=True, slots=True)
class Paraphrases:
    """What came of an order.

    Attributes:
        texts: different ones, none of which is the instruction; there may be fewer than ordered.
        cost: of asking the endpoint, counted as a policy's.
    """

    texts: tuple[str, ...]
    cost: Cost


@dataclass(frozen=True, slots=True)
class _Order:
    text: str
    count: int
    seed: int
    result: Future[Paraphrases] = field(default_factory=Future)

    def request(self, temperature: float) -> Propose:
        """Return what the endpoint is asked."""
        seeds = tuple(derive_seed(self.seed, draw) for draw in range(self.count))
        return Propose((Message("system", REQUEST), Message("user", self.text)), seeds, temperature)


class Desk:
    """Takes orders, and sends all that are open as soon as the first of them is called for."""

    def __init__(self, settings: Endpoint) -> None:
        """Send nothing yet.

        Args:
            settings: where the endpoint is and how it is asked.
        """
        given = settings.model_dump(exclude={"temperature"})
        self._server = ServerSettings(**given, api="chat", request_per_seed=True, logprobs=False, version="")
        self._temperature = settings.temperature
        self._open: list[_Order] = []

    def order(self, text: str, count: int, seed: int) -> Future[Paraphrases]:
        """Take an order; what it returns is for `collect`.

        Args:
            text: the instruction, which may be any text; of one of blanks there are no paraphrases.
            count: how many are wanted.
            seed: equal seeds ask the endpoint with equal seeds.
        """
        order = _Order(text, count, seed)
        if text.strip() and count:
            self._open.append(order)
        else:
            order.result.set_result(Paraphrases((), Cost()))
        return order.result

    def collect(self, result: Future[Paraphrases]) -> Paraphrases:
        """Return what came of an order.

        Raises:
            Busy: the endpoint cannot be reached, stays overloaded or fails; trying again later may work.
            SettingsError: the endpoint refuses a request for good, or its address, its API key or a variable of the
                environment cannot be used.
            DataError: an answer is not what the protocol promises.
            DependencyNotInstalled: httpx is missing.
        """
        if not result.done():
            self._send()
        return result.result()

    def _send(self) -> None:
        orders, self._open = self._open, []
        try:
            with closing(ServerPolicy(self._server, str)) as server:
                answers = server.propose([order.request(self._temperature) for order in orders])
        except (Busy, DataError, DependencyNotInstalled, SettingsError) as error:
            raise type(error)(f"paraphraser: {error}") from None
        refused: Counter[str] = Counter()
        for order, answer in zip(orders, answers, strict=True):
            order.result.set_result(_paraphrases(order, answer, refused))
        if refused:
            logger.warning(
                "paraphraser=%s replies=%d refused=%s; rules took their place",
                self._server.model,
                sum(order.count for order in orders),
                dict(refused),
            )


@cache
def desk(settings: Endpoint) -> Desk:
    """Return the desk of an endpoint, which all episodes of this process share."""
    return Desk(settings)


def _paraphrases(order: _Order, answer: Proposed, refused: Counter[str]) -> Paraphrases:
    """Keep the replies that are paraphrases, and fill up by the rules; count in `refused` why others are none."""
    kept: list[str] = []
    for reply in answer.proposals:
        text = tidied(reply.text)
        if reason := refusal(text, order.text, kept):
            refused[reason] += 1
        else:
            kept.append(text)
    spare = (text for text in rules.paraphrases(order.text, order.count, order.seed) if text not in kept)
    texts = (*kept, *spare)[: order.count]
    generated = sum(reply.tokens for reply in answer.proposals)
    return Paraphrases(texts, Cost(generated_tokens=generated, prompt_tokens=answer.prompt_tokens, policy_calls=1))


def tidied(reply: str) -> str:
    """Return a reply on one line, without the quotation marks around it."""
    text = " ".join(reply.split())
    return text[1:-1].strip() if len(text) > 1 and text[0] in _QUOTES and text[-1] in _QUOTES else text


def refusal(text: str, instruction: str, others: Sequence[str]) -> str:
    """Return why a text is no paraphrase of an instruction, empty where it may be one.

    Args:
        text: in one line.
        instruction: what it is to say; each of its numbers must be in the text as often, in this form or another (40.00, 40).
        others: paraphrases that there are already.
    """
    if not text:
        return "empty"
    if len(text) > max(LONGEST * len(instruction), _ROOM):
        return "too long"
    if _numbers(instruction) - _numbers(text):
        return "a number is missing"
    same = {" ".join(other.split()).casefold() for other in (instruction, *others)}
    return "nothing new" if text.casefold() in same else ""


def _numbers(text: str) -> Counter[float]:
    return Counter(float(number) for number in _NUMBER.findall(text))
