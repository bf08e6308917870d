"""What search asks of a policy and of a QNet: batches of requests, answered in order."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

from qlass.records import History, Proposal


@dataclass(frozen=True, slots=True)
class Propose:
    """Ask for replies to a history.

    Attributes:
        history: ends with a user message.
        seeds: one per reply; a reply depends on its history, temperature and seed only, never on its neighbours.
        temperature: 0 for greedy decoding (then one seed is enough).
        admissible: where given, choose among these actions instead of generating freely.
    """

    history: History
    seeds: tuple[int, ...]
    temperature: float
    admissible: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Proposed:
    """The answer to `Propose`: one Proposal per seed, and the prompt's length in tokens.

    A choice among admissible actions draws without replacement, so it has no more Proposals than there are actions.
    """

    proposals: tuple[Proposal, ...]
    prompt_tokens: int


@dataclass(frozen=True, slots=True)
class Score:
    """Ask for the Q-value of each reply to a history. Replies are texts as `render_reply` writes them."""

    history: History
    replies: tuple[str, ...]


class Policy(Protocol):
    """Proposes replies, for many histories at once."""

    def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
        """Answer each request, in order."""


class ValueFunction(Protocol):
    """Scores (history, reply) pairs, for many histories at once."""

    def score(self, requests: Sequence[Score]) -> list[tuple[float, ...]]:
        """Return one value per reply of each request, in order."""
