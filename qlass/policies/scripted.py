"""A policy and a value function from plain functions: for tests, and for trying an environment without a model."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence

from qlass.policies.base import Propose, Proposed, Score
from qlass.prompts import parse_reply
from qlass.records import History, Proposal


class ScriptedPolicy:
    """Proposes what a function says."""

    def __init__(self, reply: Callable[[History, random.Random], str], normalise: Callable[[str], str]) -> None:
        """Hold the function.

        Args:
            reply: the text of a reply to a history; the generator is seeded by the request's seed, and at temperature 0
                always the same.
            normalise: the environment's normal form of an action.
        """
        self._reply, self._normalise = reply, normalise

    def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
        """Answer each request; tokens are counted as words."""
        return [
            Proposed(
                tuple(self._proposal(request.history, seed if request.temperature else 0) for seed in request.seeds),
                sum(len(message.content.split()) for message in request.history),
            )
            for request in requests
        ]

    def _proposal(self, history: History, seed: int) -> Proposal:
        text = self._reply(history, random.Random(seed))
        thought, action, parsed = parse_reply(text)
        return Proposal(text, thought, self._normalise(action), parsed, len(text.split()), 0.0)


class ScriptedValueFunction:
    """Scores what a function says."""

    def __init__(self, value: Callable[[History, str], float]) -> None:
        """Hold the function: (history, reply) to Q-value."""
        self._value = value

    def score(self, requests: Sequence[Score]) -> list[tuple[float, ...]]:
        """Answer each request."""
        return [tuple(self._value(request.history, reply) for reply in request.replies) for request in requests]
