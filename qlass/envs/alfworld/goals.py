"""Reads an ALFWorld task sentence: the inverse of the templates in ALFRED's goal library."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import cache

from qlass.envs.alfworld import rooms
from qlass.envs.alfworld.panels import CATEGORIES
from qlass.errors import EnvironmentFault


@dataclass(frozen=True, slots=True)
class Goal:
    """What the task sentence asks for.

    Attributes:
        category: put, look, clean, heat, cool or two.
        target: object class in lower case.
        receptacle: goal receptacle class in lower case, empty for look.
        toggle: lamp class in lower case, empty but for look.
    """

    category: str
    target: str
    receptacle: str
    toggle: str


@cache
def _sentences() -> tuple[tuple[str, re.Pattern[str]], ...]:
    """Turn the sentence templates of ALFRED's goal library into patterns: (category, pattern)."""
    patterns = []
    for category, task_type in CATEGORIES.items():
        for template in rooms.goals()[task_type]["templates"]:
            pattern = re.sub(r"\\?\{(\w+)\\?\}", r"(?P<\1>[a-z]+)", re.escape(template))
            patterns.append((category, re.compile(pattern)))
    return tuple(patterns)


def parse_goal(observation: str) -> Goal:
    """Read the goal from the first observation.

    Raises:
        EnvironmentFault: no task sentence, or one that no template of the goal library gives.
    """
    found = re.search(r"Your task is to: (.+?)\.?\s*$", observation, re.MULTILINE)
    for category, pattern in _sentences() if found else ():
        match = pattern.fullmatch(found[1].strip()) if found else None
        if match:
            words = match.groupdict()
            return Goal(category, words["obj"], words.get("recep", ""), words.get("toggle", ""))
    raise EnvironmentFault(f"no goal of the goal library in the observation {observation!r}")
