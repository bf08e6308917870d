"""`corridor`: a tiny deterministic environment whose optimal Q-values are known, for tests and first experiments.

Description: a corridor of `length` cells, some with a door to a coloured room, three with an item. The agent sees only
the cell it is at, so it has to search, and a search in the wrong direction can cost more steps than the limit allows.

Categories:
    enter: enter the room of a colour.
    fetch: enter it with an item.
    unlock: enter it; it stays closed until the agent carries the key.

Reward, when a room is entered, which ends the episode: 1.0 where the goal holds, 0.5 for the right room without the
item to bring, 0.0 for a wrong room. Success: the reward is 1.0.

Options: `length` (cells, 3 to 9) and `rooms` (doors, 2 to 6, at most `length`).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from qlass.envs.core.base import EnvDefinition, Info, Snapshot, StepResult, TextEnv, package_text
from qlass.envs.corridor.expert import CorridorExpert
from qlass.envs.corridor.panels import check_options, panels
from qlass.envs.corridor.rules import CATEGORIES, Corridor, State, optimal_q
from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec

__all__ = ["DEFINITION", "CorridorEnv", "CorridorExpert", "optimal_q"]


def normalise_action(text: str) -> str:
    """Return the form in which the rules know an action: lower case, one space between words, no final period."""
    return " ".join(text.lower().split()).rstrip(". ")


class CorridorEnv(TextEnv):
    """One corridor at a time. There is no step limit here and no randomness, whatever the seed."""

    def __init__(self, options: Mapping[str, Any]) -> None:
        """Check the options; a task itself is complete in its TaskSpec."""
        check_options(options)
        self._corridor: Corridor | None = None
        self._state = State(0, frozenset(), None)

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:  # noqa: ARG002 - the contract's
        """Start a task; the first observation ends with the goal."""
        self._corridor = Corridor.of(spec)
        self._state = self._corridor.initial()
        return f"{self._corridor.view(self._state)} {self._corridor.goal()}", self._info(self._corridor, valid=True)

    def step(self, action: str) -> StepResult:
        """Execute one action; what is not possible here gets "You cannot do that." and changes nothing."""
        corridor = self._corridor
        if corridor is None or self._state.outcome is not None:
            raise EnvironmentFault(f"step({action!r}): there is no episode or it is over; call reset or restore first")
        action = normalise_action(action)
        if action not in corridor.actions(self._state):
            return "You cannot do that.", 0.0, False, False, self._info(corridor, valid=False)
        self._state, observation = corridor.apply(self._state, action)
        outcome = self._state.outcome
        return observation, outcome or 0.0, outcome is not None, False, self._info(corridor, valid=True)

    def snapshot(self) -> Snapshot:
        """Return the state itself, which never changes."""
        return self._state

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a state of this task."""
        self._state = snapshot

    def close(self) -> None:
        """Forget the task."""
        self._corridor = None

    def _info(self, corridor: Corridor, *, valid: bool) -> Info:
        outcome = self._state.outcome or 0.0
        return {
            "admissible_actions": corridor.actions(self._state),
            "valid": valid,
            "success": outcome == 1.0,
            "outcome": outcome,
        }


DEFINITION = EnvDefinition(
    name="corridor",
    make=CorridorEnv,
    panels=panels,
    make_expert=CorridorExpert,
    instruction=package_text(__name__, "instruction.txt"),
    normalise_action=normalise_action,
    label="corridor (toy)",
    categories=CATEGORIES,
)
