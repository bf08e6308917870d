"""The native engine: plays ALFWorld's games from their own domain, problem and grammar, with nothing but Python."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from typing import Any

from qlass.envs.alfworld.engine import NOTHING_HAPPENS
from qlass.envs.alfworld.games import brief
from qlass.envs.alfworld.native.facts import NOT, Known, State
from qlass.envs.alfworld.native.grammar import (
    Binding,
    Context,
    Entity,
    Grammar,
    Text,
    conditions,
    parse_text,
    render,
)
from qlass.envs.alfworld.native.pddl import Problem, check_declared, parse_domain, parse_problem, unsupported
from qlass.envs.alfworld.native.world import Operator, World
from qlass.errors import EnvironmentFault

_INTRODUCTION = parse_text("#intro#")


class Game:
    """What all engines that play one game share; it does not change, except that it remembers what it worked out."""

    def __init__(self, domain: str, problem: str, grammar: str) -> None:
        """Read the three texts of a game.

        Raises:
            EnvironmentFault: a text needs more than ALFRED's do.
            ValueError, KeyError, IndexError, SyntaxError: a text cannot be read.
        """
        read, posed = parse_domain(domain), parse_problem(problem)
        check_declared(read, posed)
        self._grammar = Grammar(grammar)
        self._entities = _named_entities(posed)
        self._variables = {
            x.name: [(v.removeprefix("?"), kind) for v, kind in x.parameters.items()] for x in read.schemas
        }
        self._asks = {name: conditions(text, self._grammar) for name, text in self._grammar.feedbacks.items()}
        asked = {
            x.predicate for found in (*self._asks.values(), conditions(_INTRODUCTION, self._grammar)) for x in found
        }
        self.world = World(read, posed, frozenset(asked), frozenset(re.findall(r"\w+", grammar.lower())))
        self._check_commands()
        self._commands: dict[Operator, str] = {}
        self._lookups: dict[Operator, list[tuple[str, Known]]] = {}
        # A menu is asked for twice per step, and again whenever a search comes back to its state.
        self.menu = lru_cache(maxsize=256)(self._menu)
        self._answer = lru_cache(maxsize=2048)(self._rendered_feedback)

    @cached_property
    def introduction(self) -> str:
        """The welcome line, the room and the task."""
        return self._render(_INTRODUCTION, {}, self.world.initial)

    def feedback(self, operator: Operator, state: State) -> str:
        """Return the answer to an operator in the state after it."""
        lookups = self._lookups.get(operator)
        if lookups is None:
            bound = self._bound(operator)
            lookups = [(x.predicate, x.known(bound)) for x in self._asks[operator.schema]]
            self._lookups[operator] = lookups
        seen = 0
        for lookup in lookups:
            seen |= self.world.table.mask(*lookup)
        return self._answer(operator, state & seen)

    def _menu(self, state: State) -> Mapping[str, Operator]:
        """Return the applicable operators by command.

        *Differs from TextWorld:* of several operators with one command (an object that has two types, say), the one with
        the first arguments in sorted order counts, not fast-downward's first. In ALFRED they all do the same.
        """
        menu: dict[str, Operator] = {}
        for operator in self.world.applicable(state):
            command = self._commands.get(operator)
            if command is None:
                text = self._grammar.commands[operator.schema]
                command = self._commands[operator] = self._render(text, self._bound(operator), 0)
            other = menu.setdefault(command, operator)
            if other is not operator and operator.arguments < other.arguments:
                menu[command] = operator
        return menu

    def _rendered_feedback(self, operator: Operator, state: State) -> str:
        return self._render(self._grammar.feedbacks[operator.schema], self._bound(operator), state)

    def _render(self, text: Text, bound: Binding, state: State) -> str:
        return render(text, Context(self._grammar, self.world.table, self._entities, state, bound))

    def _bound(self, operator: Operator) -> Binding:
        pairs = zip(self._variables[operator.schema], operator.arguments, strict=True)
        return {variable: value for variable, value in pairs if value}

    def _check_commands(self) -> None:
        """Refuse a grammar whose commands depend on the state: each operator's command is worded once."""
        for name, text in self._grammar.commands.items():
            asked = {x.predicate.removeprefix(NOT) for x in conditions(text, self._grammar)} & self.world.fluents
            if asked:
                raise unsupported(f"the command of action {name!r} asks for {sorted(asked)}, which actions change")


def _named_entities(problem: Problem) -> dict[str, Entity]:
    """Give everything that occurs in a fact the name that players see: `cabinet_bar__plus_00...` is `cabinet 7`.

    As in `alfworld.agents.utils.misc.Demangler`, the first of a class in sorted order has the highest number.
    """
    ids = sorted({name for fact in problem.init for name in fact[1:]})
    classes = {}
    for name in ids:
        word, bar, _ = name.partition("_bar_")
        classes[name] = (word + "basin" if "basin" in name else word) if bar else ""
    left = Counter(classes.values())
    entities = {}
    for name, word in classes.items():
        entities[name] = Entity(name, f"{word} {left[word]}" if word else f"{name} ")
        left[word] -= 1
    return entities


# Shared by all engines of the process. A game with what it remembers is about 1 MB.
shared_game = lru_cache(maxsize=64)(Game)


@dataclass(frozen=True, slots=True)
class Snapshot:
    """A state of a game; good in every engine of the process that has loaded the game."""

    game: Game
    state: State


class NativeEngine:
    """Plays one game at a time; the same text, commands and rewards as `qlass.envs.alfworld.engine.TextworldEngine`."""

    def __init__(self) -> None:
        """Start without a game."""
        self._game: Game | None = None
        self._state: State | None = None

    def load(self, data: Mapping[str, Any]) -> None:
        """Load a game (the content of a game.tw-pddl file).

        Raises:
            EnvironmentFault: the game cannot be read, or needs more than ALFRED's games do.
        """
        domain, problem, grammar = data["pddl_domain"], data["pddl_problem"], data["grammar"]
        try:
            self._game, self._state = shared_game(domain, problem, grammar), None
        except (IndexError, KeyError, SyntaxError, TypeError, ValueError) as error:
            raise EnvironmentFault(
                f"alfworld problem {problem.strip()[:60]!r}: the native engine cannot read it, its domain or its grammar "
                f"({brief(error)}); expected is a game of ALFWorld. Remove the game file or download it again."
            ) from error

    def reset(self) -> str:
        """Go to the first state; return the introduction (welcome line, room, task)."""
        if self._game is None:
            raise EnvironmentFault("alfworld native engine: reset before load; call load(game) first.")
        self._state = self._game.world.initial
        return self._game.introduction

    def step(self, command: str) -> tuple[str, bool]:
        """Execute a command; return (feedback, whether it was admissible). `NOTHING_HAPPENS` where it was not."""
        game, state = self._now()
        operator = game.menu(state).get(command)
        if operator is None:
            return NOTHING_HAPPENS, False
        self._state = game.world.apply(operator, state)
        return game.feedback(operator, self._state), True

    def admissible_commands(self) -> list[str]:
        """Return every command that the engine would execute now, sorted."""
        game, state = self._now()
        return sorted(game.menu(state))

    def won(self) -> bool:
        """Return whether the goal holds."""
        game, state = self._now()
        return game.world.won(state)

    def snapshot(self) -> Snapshot:
        """Return the current state, in constant time; it stays valid."""
        return Snapshot(*self._now())

    def restore(self, snapshot: Snapshot) -> None:
        """Go to a state of the loaded game, in constant time.

        Raises:
            EnvironmentFault: the state is of another game.
        """
        if snapshot.game is not self._game:
            raise EnvironmentFault(
                "alfworld native engine: the snapshot is of another game than the one loaded; a snapshot is valid while "
                "its game is loaded. Take one after reset(), or replay the actions."
            )
        self._state = snapshot.state

    def close(self) -> None:
        """Forget the game; calling it twice is fine."""
        self._game = self._state = None

    def _now(self) -> tuple[Game, State]:
        if self._game is None or self._state is None:
            raise EnvironmentFault("alfworld native engine: no episode; call load(game) and reset() first.")
        return self._game, self._state
