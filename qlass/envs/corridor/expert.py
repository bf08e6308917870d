"""A demonstrator for `corridor` that sees what an agent sees: it searches, and remembers what it has seen."""

from __future__ import annotations

import random
import re

from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec

_HERE = re.compile(r"You are at cell (\d+) of (\d+)\.")
_DOOR = re.compile(r"There is a (\w+) door\.")
_ITEM = re.compile(r"There is a (\w+) on the floor\.")
_GOAL = re.compile(r"Your task is to: (?:bring the (\w+) to|enter) the (\w+) room(, which is locked)?\.")


class CorridorExpert:
    """Finds the item, then the room; where it has not been it looks in a drawn direction first."""

    def __init__(self, spec: TaskSpec, seed: int) -> None:
        """Start an episode; of the spec only the id is used, for messages."""
        self._task_id = spec.task_id
        self._direction = random.Random(seed).choice([-1, 1])
        self._known: dict[str, int] = {}
        self._visited: set[int] = set()
        self._goal: tuple[str, str] | None = None
        self._carries_item = False

    def act(self, observation: str) -> tuple[str, str]:
        """Return (thought, action).

        Raises:
            EnvironmentFault: the observation is not one of an unfinished episode of corridor.
        """
        here, length = self._look(observation)
        item, room = self._goal or ("", "")
        target, execute = (item, f"take {item}") if item and not self._carries_item else (room, f"enter {room} room")
        noun = target if execute.startswith("take") else f"{target} room"
        if target not in self._known:
            return self._search(here, length, noun)
        if self._known[target] == here:
            self._carries_item = self._carries_item or target == item
            return f"The {noun} is here.", execute
        east = self._known[target] > here
        return f"I saw the {noun} at cell {self._known[target]}.", f"go {'east' if east else 'west'}"

    def _look(self, observation: str) -> tuple[int, int]:
        """Remember what the observation shows; return the cell and the length of the corridor."""
        place, goal = _HERE.search(observation), _GOAL.search(observation)
        if goal:
            self._goal = (goal[1] or ("key" if goal[3] else ""), goal[2])
        if place is None or self._goal is None:
            raise EnvironmentFault(f"{self._task_id}: no place or no goal in {observation!r}")
        here = int(place[1])
        self._visited.add(here)
        for pattern in (_DOOR, _ITEM):
            if found := pattern.search(observation):
                self._known[found[1]] = here
        return here, int(place[2])

    def _search(self, here: int, length: int, noun: str) -> tuple[str, str]:
        """Go on in the drawn direction while there is something new, then in the other one."""
        ahead = range(here, length + 1) if self._direction > 0 else range(1, here + 1)
        if self._visited.issuperset(ahead):
            self._direction = -self._direction
        return f"I have not seen the {noun} yet.", f"go {'east' if self._direction > 0 else 'west'}"
