"""The rules of `corridor` as pure functions of a state, and its optimal Q-values."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import count
from typing import NamedTuple

from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec

CATEGORIES = ("enter", "fetch", "unlock")
NOTHING = "-"
"""Marks a cell without a door, or without an item, in the key of a TaskSpec."""


class State(NamedTuple):
    """Where an episode stands: the cell (from 1), items carried, and the outcome once a room was entered."""

    cell: int
    carried: frozenset[str]
    outcome: float | None


@dataclass(frozen=True, slots=True)
class Corridor:
    """One task: what is where, and what each action does.

    Attributes:
        doors: colour of the door at each cell, "-" where there is none.
        items: item on the floor of each cell at the start, "-" where there is none.
        start: first cell, counted from 1.
        category: enter, fetch or unlock.
        room: colour of the room to enter.
        item: what to bring (fetch) or the key (unlock); empty for enter.
    """

    doors: tuple[str, ...]
    items: tuple[str, ...]
    start: int
    category: str
    room: str
    item: str

    @classmethod
    def of(cls, spec: TaskSpec) -> Corridor:
        """Read the key of a TaskSpec.

        Raises:
            EnvironmentFault: the key is not one of ours.
        """
        try:
            doors, items = tuple(spec.key["doors"].split()), tuple(spec.key["items"].split())
            corridor = cls(doors, items, spec.key["start"], spec.category, spec.key["room"], spec.key["item"])
            possible = len(doors) == len(items) and 1 <= corridor.start <= len(doors) and corridor.room in doors
        except (KeyError, AttributeError, TypeError) as error:
            raise EnvironmentFault(f"{spec.task_id}: key={spec.key!r} is no corridor: {error!r}") from error
        if not possible or spec.category not in CATEGORIES:
            raise EnvironmentFault(f"{spec.task_id}: category={spec.category!r}, key={spec.key!r} is no corridor")
        return corridor

    def initial(self) -> State:
        """Return the state after reset."""
        return State(self.start, frozenset(), None)

    def goal(self) -> str:
        """Return the sentence that states the task."""
        sentences = {
            "enter": f"enter the {self.room} room",
            "fetch": f"bring the {self.item} to the {self.room} room",
            "unlock": f"enter the {self.room} room, which is locked",
        }
        return f"Your task is to: {sentences[self.category]}."

    def view(self, state: State) -> str:
        """Describe the cell."""
        words = [f"You are at cell {state.cell} of {len(self.doors)}."]
        if (door := self.doors[state.cell - 1]) != NOTHING:
            words.append(f"There is a {door} door.")
        if item := self._on_floor(state):
            words.append(f"There is a {item} on the floor.")
        if state.carried:
            words.append(f"You carry: {', '.join(sorted(state.carried))}.")
        return " ".join(words)

    def actions(self, state: State) -> tuple[str, ...]:
        """Return every action that the rules understand now, sorted."""
        if state.outcome is not None:
            return ()
        found = []
        if (door := self.doors[state.cell - 1]) != NOTHING:
            found.append(f"enter {door} room")
        if state.cell < len(self.doors):
            found.append("go east")
        if state.cell > 1:
            found.append("go west")
        if item := self._on_floor(state):
            found.append(f"take {item}")
        return tuple(found)

    def apply(self, state: State, action: str) -> tuple[State, str]:
        """Execute one of `actions(state)`; return the next state and the observation."""
        verb, _, rest = action.partition(" ")
        if verb == "enter":
            return self._enter(state, rest.removesuffix(" room"))
        if verb == "take":
            state = state._replace(carried=state.carried | {rest})
            return state, f"You take the {rest}. {self.view(state)}"
        state = state._replace(cell=state.cell + (1 if rest == "east" else -1))
        return state, self.view(state)

    def _enter(self, state: State, room: str) -> tuple[State, str]:
        """Go through the door, which ends the episode unless it is locked."""
        right, lacking = room == self.room, bool(self.item) and self.item not in state.carried
        if right and lacking and self.category == "unlock":
            return state, f"The {room} room is locked. {self.view(state)}"
        outcome = (0.5 if lacking else 1.0) if right else 0.0
        ending = {
            1.0: "You have done it.",
            0.5: f"You should have brought the {self.item}.",
            0.0: "It is the wrong room.",
        }
        return state._replace(outcome=outcome), f"You enter the {room} room. {ending[outcome]}"

    def _on_floor(self, state: State) -> str:
        """Return the item on the floor of the cell, or an empty string."""
        item = self.items[state.cell - 1]
        return "" if item == NOTHING or item in state.carried else item


def optimal_q(spec: TaskSpec, actions: Sequence[str], gamma: float, max_steps: int | None = None) -> float:
    """Return Q*(h, a) of the last of `actions` after the ones before: gamma^(steps to the best end) * its reward.

    Args:
        spec: the task.
        actions: normalised actions from the start, at least one; only the last one may end the episode.
        gamma: discount, in (0, 1].
        max_steps: steps of an episode; None for no limit. An episode that the limit ends earns nothing.

    Raises:
        EnvironmentFault: the actions go on after the end of the episode.
    """
    corridor = Corridor.of(spec)
    state = corridor.initial()
    for action in actions:
        if state.outcome is not None:
            raise EnvironmentFault(f"{spec.task_id}: {list(actions)} goes on after the end of the episode")
        if action in corridor.actions(state):
            state, _ = corridor.apply(state, action)
    # Breadth first: a state is first met at the end of a shortest way to it, so it need not be looked at again.
    best, frontier, seen = 0.0, [state], {state}
    for distance in count() if max_steps is None else range(max_steps - len(actions) + 1):
        best = max([best, *(gamma**distance * state.outcome for state in frontier if state.outcome is not None)])
        following = [corridor.apply(state, action)[0] for state in frontier for action in corridor.actions(state)]
        frontier = [state for state in dict.fromkeys(following) if state not in seen]
        seen.update(frontier)
        if not frontier:
            break
    return best
