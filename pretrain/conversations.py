"""What the corpora of random play share: conversations with exercises, and made-up words put in the place of names."""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

_STARTS, _VOWELS, _ENDS = "bcdfghjklmnprstvwz", "aeiou", "lnrstmdk"


class Exercise(NamedTuple):
    """A question.

    Attributes:
        kind: what it asks for, a row of the measurement.
        question: its words.
        answer: the right one.
    """

    kind: str
    question: str
    answer: str


class Conversation(list[tuple[str, str]]):
    """Messages as (role, text); `kinds` names the exercise that a message answers, by the message's number."""

    def __init__(self) -> None:
        super().__init__()
        self.kinds: dict[int, str] = {}

    def ask(self, exercises: Iterable[Exercise]) -> None:
        """Add exercises about the newest message, each once."""
        for exercise in dict.fromkeys(exercises):
            self.append(("user", exercise.question))
            self.kinds[len(self)] = exercise.kind
            self.append(("assistant", exercise.answer))


class Renaming:
    """Replaces what matches a pattern: equals by equals, different ones by different ones, in any number of texts."""

    def __init__(self, pattern: re.Pattern[str], make_up: Callable[[], str]) -> None:
        self._pattern = pattern
        self._make_up = make_up
        self._new: dict[str, str] = {}

    def __call__(self, text: str) -> str:
        """Return a text with other words."""
        return self._pattern.sub(self._replace, text)

    def _replace(self, found: re.Match[str]) -> str:
        old = found[0].lower()
        while old not in self._new:
            word = self._make_up()
            if word not in self._new.values():
                self._new[old] = word
        new = self._new[old]
        return new[0].upper() + new[1:] if found[0][0].isupper() else new


def made_up_word(rng: random.Random) -> str:
    """Return two or three syllables: so many words that none is frequent enough to become a token."""
    syllables = (rng.choice(_STARTS) + rng.choice(_VOWELS) for _ in range(rng.randint(2, 3)))
    return "".join(syllables) + rng.choice(_ENDS)


def yes(right: bool) -> str:
    """Return the answer to a question that wants yes or no."""
    return "yes" if right else "no"


def listed(names: Iterable[str]) -> str:
    """Return names as answers have them."""
    return ", ".join(names) or "none"
