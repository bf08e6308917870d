"""What all engines of a process share: translated games, their names and their ground actions."""

from __future__ import annotations

import functools
from collections import OrderedDict
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from qlass.envs.alfworld.textgen import Context, Grammar, Template
from qlass.envs.alfworld.translation import Translation, cached_translation, problem_key
from qlass.errors import EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Mapping
    from pathlib import Path

    from qlass.envs.alfworld.library import Operator
    from qlass.envs.alfworld.queries import Facts, Placeholder, Signature


@dataclass(frozen=True, slots=True)
class Action:
    """One ground action: what its parameters stand for, its command, and how many facts it changes."""

    name: str
    bound: dict[Placeholder, str]
    command: str
    effects: int


class Game:
    """What all engines that play one game share; it does not change, except that it remembers ground actions."""

    def __init__(self, translation: Translation, grammar_text: str) -> None:
        """Name the entities and compile the grammar."""
        self.sas = translation.sas
        self.objects = translation.objects
        # JSON has no tuples; placeholders are keys.
        self.parameters = {k: [(name, kind) for name, kind in v] for k, v in translation.parameters.items()}
        types = tuple((name, tuple(supertypes)) for name, supertypes in translation.types)
        self.grammar = Grammar(grammar_text, types)
        self._fluents = frozenset(translation.fluents)
        self.initial_facts = self._facts(translation.init)
        self.entities = _named_entities(self.initial_facts)
        self.actions: dict[int, Action] = {}
        self._atoms: dict[bytes, tuple[Signature, tuple[str, ...]]] = {}

    def signature(self, predicate: str, arguments: tuple[str, ...]) -> Signature:
        """Return the signature of a fact."""
        return predicate, tuple(self.objects[name] for name in arguments)

    def atom(self, text: bytes) -> tuple[Signature, tuple[str, ...]]:
        """Parse fast-downward's text of a fact, for example `NegatedAtom holds(agent1, cup_1)`."""
        parsed = self._atoms.get(text)
        if parsed is None:
            kind, rest = text.decode("cp1252").split(" ", 1)
            predicate, _, inside = rest.partition("(")
            arguments = tuple(a for a in inside[:-1].split(", ") if a)
            predicate = "not_" + predicate if kind == "NegatedAtom" else predicate
            parsed = self._atoms[text] = self.signature(predicate, arguments), arguments
        return parsed

    def action(self, operator: Operator, facts: Facts) -> Action:
        """Return a ground action; its command is worded once, as commands depend on constant facts only."""
        found = self.actions.get(operator.id)
        if found is None:
            name, *arguments = operator.name.decode("cp1252").split()
            bound = dict(zip(self.parameters[name], arguments, strict=False))
            template = self.grammar.commands[name]
            if template.queried & self._fluents:
                raise EnvironmentFault(
                    f"alfworld grammar: the command of action {name!r} asks for {sorted(template.queried)}, which "
                    "actions change; commands may ask for constant facts only. Reword the template."
                )
            found = Action(name, bound, self.render(template, bound, facts), operator.effects)
            self.actions[operator.id] = found
        return found

    def render(self, template: Template, bound: dict[Placeholder, str], facts: Facts) -> str:
        """Return the text of a template for an action in a state."""
        variables = {name: self.entities[value] for (name, _), value in bound.items()}
        return self.grammar.render(template, Context(facts, bound, variables, self.entities))

    def _facts(self, rows: list[list[str]]) -> Facts:
        facts: dict[Signature, set[tuple[str, ...]]] = {}
        for predicate, *values in rows:
            arguments = tuple(values)
            facts.setdefault(self.signature(predicate, arguments), set()).add(arguments)
        return {signature: frozenset(found) for signature, found in facts.items()}


def _named_entities(facts: Facts) -> dict[str, Any]:
    """Give every entity that occurs in a fact the name that players see ("cabinet 7")."""
    from alfworld.agents.utils.misc import Demangler
    from textworld.generator.game import EntityInfo

    kinds = {
        name: kind for (_, types), rows in facts.items() for row in rows for name, kind in zip(row, types, strict=True)
    }
    entities = {name: EntityInfo(name, kind) for name, kind in kinds.items()}
    for info in entities.values():
        info.name, info.definite, info.indefinite = info.id, "the", "a"
    demangler = Demangler(game_infos=entities, shuffle=False)
    for info in entities.values():
        info.name = demangler.demangle_alfred_name(info.id)
    return entities


class GameStore:
    """The games used last, at most `size`, shared by all engines of a process."""

    def __init__(self, folder: Path, size: int = 64) -> None:
        """Keep translations in `folder`."""
        self._folder = folder
        self._size = size
        self._games: OrderedDict[tuple[str, str], Game] = OrderedDict()

    def get(self, data: Mapping[str, Any]) -> Game:
        """Return the game of a game file's content, translating it when it was never seen."""
        domain, problem, grammar = data["pddl_domain"], data["pddl_problem"], data["grammar"]
        key = problem_key(domain, problem), grammar
        game = self._games.pop(key, None)
        if game is None:
            game = Game(cached_translation(domain, problem, self._folder), grammar)
        self._games[key] = game
        if len(self._games) > self._size:
            self._games.popitem(last=False)
        return game


@functools.lru_cache(maxsize=8)
def shared_store(folder: Path) -> GameStore:
    """Return the process-wide store of a cache folder."""
    return GameStore(folder)
