"""The TextWorld/ALFWorld engine, fast: same text, same commands, same rewards, character by character.

What is kept: fast-downward's C library as the state machine and its parser of PDDL, TextWorld's parsers for the
grammar, ALFWorld's `Demangler` for the names. What is replaced is the Python between them:
`textworld.envs.pddl.PddlEnv` and `PddlState` (textworld 1.7.0), which translate four times per game and parse every
admissible command at every step.
"""

from __future__ import annotations

import weakref
import zlib
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qlass.envs.alfworld.library import Atom, Operator, load_library, release_library
from qlass.errors import EnvironmentFault

if TYPE_CHECKING:
    import ctypes
    from collections.abc import Mapping

    from qlass.envs.alfworld.gamestore import Game, GameStore
    from qlass.envs.alfworld.queries import Facts, Signature

NOTHING_HAPPENS = "Nothing happens."
"""The engine's answer to a command that is not admissible; the state stays as it is."""


@dataclass(frozen=True, slots=True)
class State:
    """A state of a loaded game. It never changes, so it is its own snapshot.

    Attributes:
        load: marks the load that `state_id` belongs to.
        state_id: fast-downward's number; equal planning states have equal numbers.
        facts: what the grammar can ask about; states share the parts that are equal.
    """

    load: object
    state_id: int
    facts: Facts


class TextworldEngine:
    """Plays one game at a time. Not for use from several threads."""

    def __init__(self, store: GameStore) -> None:
        """Take a private copy of fast-downward (1 MB)."""
        self._store = store
        self._library: ctypes.CDLL | None = load_library()
        # Also gives the copy back when the engine is dropped without close(); at exit nothing needs freeing.
        self._release = weakref.finalize(self, release_library, self._library)
        self._release.atexit = False
        self._game: Game | None = None
        self._root: State | None = None
        self._state: State | None = None
        self._commands: dict[str, int] | None = None

    def load(self, data: Mapping[str, Any]) -> None:
        """Load a game (the content of a game.tw-pddl file) unless it is the one loaded already."""
        game = self._store.get(data)
        if game is self._game:
            return
        library = self._open()
        library.load_sas(zlib.decompress(game.sas))
        self._game, self._root, self._state = game, State(object(), library.get_state_id(), game.initial_facts), None

    def reset(self) -> str:
        """Go to the first state; return the introduction (welcome line, room, task)."""
        if self._game is None or self._root is None:
            raise EnvironmentFault("alfworld engine: reset before load; call load(game) first.")
        self.restore(self._root)
        game, root = self._game, self._root
        return game.render(game.grammar.introduction, {}, root.facts)

    def step(self, command: str) -> tuple[str, bool]:
        """Execute a command; return (feedback, whether it was admissible). `NOTHING_HAPPENS` where it was not."""
        library, state, game = self._open(), self._now(), self._game
        operator = self._operators().get(command)
        if operator is None or game is None:
            return NOTHING_HAPPENS, False
        action = game.actions[operator]
        effects = (Atom * action.effects)()
        library.apply_operator(operator, effects)
        facts = _changed(state.facts, [game.atom(effect.name) for effect in effects])
        self._state, self._commands = State(state.load, library.get_state_id(), facts), None
        return game.render(game.grammar.feedbacks[action.name], action.bound, facts), True

    def admissible_commands(self) -> list[str]:
        """Return every command that the engine would execute now, sorted."""
        return sorted(self._operators())

    def won(self) -> bool:
        """Return whether the goal holds."""
        return bool(self._open().check_goal())

    def facts(self) -> Facts:
        """Return the facts of the current state (names are those of the problem)."""
        return self._now().facts

    def snapshot(self) -> State:
        """Return the current state; valid until another game is loaded."""
        return self._now()

    def restore(self, state: State) -> None:
        """Go to a state of the loaded game.

        Raises:
            EnvironmentFault: the state is of another engine, or of a game loaded before.
        """
        if self._root is None or state.load is not self._root.load:
            raise EnvironmentFault(
                "alfworld engine: the snapshot is of another engine or of a game loaded before; a snapshot is valid "
                "until another game is loaded. Take one after reset(), or replay the actions."
            )
        self._open().set_state_id(state.state_id)
        self._state, self._commands = state, None

    def close(self) -> None:
        """Give the private copy of fast-downward back; calling it twice is fine."""
        self._release()
        self._library = self._game = self._root = self._state = None

    def _open(self) -> ctypes.CDLL:
        if self._library is None:
            raise EnvironmentFault("alfworld engine: used after close(); make a new one.")
        return self._library

    def _now(self) -> State:
        if self._state is None:
            raise EnvironmentFault("alfworld engine: no episode; call load(game) and reset() first.")
        return self._state

    def _operators(self) -> dict[str, int]:
        """Return operator id by command; of several operators with one command the first counts, as in `PddlEnv`."""
        library, state, game = self._open(), self._now(), self._game
        if self._commands is None and game is not None:
            operators = (Operator * library.get_applicable_operators_count())()
            library.get_applicable_operators(operators)
            self._commands = {}
            for operator in operators:
                self._commands.setdefault(game.action(operator, state.facts).command, operator.id)
        return self._commands or {}


def _changed(facts: Facts, effects: list[tuple[Signature, tuple[str, ...]]]) -> Facts:
    """Return the facts after an action. As in `PddlState.apply`, a negative effect is a fact too (`not_opened`)."""
    changed = dict(facts)
    for (predicate, types), arguments in effects:
        opposite = predicate.removeprefix("not_") if predicate.startswith("not_") else "not_" + predicate
        present = changed.get((opposite, types), frozenset())
        if arguments in present:
            changed[opposite, types] = present - {arguments}
        changed[predicate, types] = changed.get((predicate, types), frozenset()) | {arguments}
    return changed
