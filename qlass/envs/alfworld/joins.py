"""Joins over the constant facts of a PDDL task: which values make all constant conditions of an action true."""

from __future__ import annotations

from collections import defaultdict
from operator import itemgetter
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias

if TYPE_CHECKING:
    from collections.abc import Iterable

Fact: TypeAlias = tuple[str, ...]
"""Predicate and argument names."""

Row: TypeAlias = tuple[str, ...]
"""Values of an action's parameters, in their order."""


class Literal(NamedTuple):
    """A predicate over positions of a row (int) and constants (str)."""

    predicate: str
    arguments: tuple[int | str, ...]
    negated: bool

    def fact(self, row: Row) -> Fact:
        """Return the ground fact of a row."""
        return (self.predicate, *(row[a] if isinstance(a, int) else a for a in self.arguments))


class Tables:
    """The constant facts, indexed by the arguments that are known when a condition is joined."""

    def __init__(self, task: Any, fluents: set[str]) -> None:
        """Collect the initial facts of predicates that nothing changes."""
        self.fluents = fluents
        self.init: set[Fact] = {(a.predicate, *a.args) for a in task.init if hasattr(a, "predicate")}
        self._rows: dict[str, list[Row]] = defaultdict(list)
        for predicate, *arguments in sorted(self.init):
            if predicate not in fluents:
                self._rows[predicate].append(tuple(arguments))
        self._of_type: dict[str, list[str]] = defaultdict(list)
        supertypes = {t.name: t.supertype_names for t in task.types}
        for thing in task.objects:
            for name in {thing.type_name, *supertypes[thing.type_name]}:
                self._of_type[name].append(thing.name)

    def join(self, parameters: Iterable[Any], literals: list[Literal]) -> list[Row]:
        """Return all values of the parameters, in their order, for which the constant conditions hold."""
        types = [p.type_name for p in parameters]
        rows: list[Row] = [()]
        known: list[int] = []
        waiting = [x for x in literals if not x.negated and x.predicate not in self.fluents]
        while waiting:
            # Most known arguments first, and of those the predicate with the fewest facts.
            literal = min(waiting, key=lambda x: (-sum(a in known for a in x.arguments), len(self._rows[x.predicate])))
            waiting.remove(literal)
            rows, known = self._extend(rows, known, literal, types)
        for parameter in range(len(types)):
            if parameter not in known:
                rows = [(*row, value) for row in rows for value in self._of_type[types[parameter]]]
                known.append(parameter)
        order = [known.index(parameter) for parameter in range(len(types))]
        if order != sorted(order):
            rows = list(map(itemgetter(*order), rows))
        refused = [x for x in literals if x.negated and x.predicate not in self.fluents]
        return [row for row in rows if not any(x.fact(row) in self.init for x in refused)]

    def _extend(
        self, rows: list[Row], known: list[int], literal: Literal, types: list[str]
    ) -> tuple[list[Row], list[int]]:
        """Join one condition to the rows found so far."""
        new = list(dict.fromkeys(a for a in literal.arguments if isinstance(a, int) and a not in known))
        allowed = {a: frozenset(self._of_type[types[a]]) for a in new}
        index: dict[Row, list[Row]] = defaultdict(list)
        for values in self._rows[literal.predicate]:
            found: dict[int, str] = {}
            for argument, value in zip(literal.arguments, values, strict=True):
                if isinstance(argument, str):
                    fits = argument == value
                else:
                    fits = found.setdefault(argument, value) == value and value in allowed.get(argument, (value,))
                if not fits:
                    break
            else:
                index[tuple(v for a, v in found.items() if a in known)].append(tuple(found[a] for a in new))
        places = [known.index(a) for a in dict.fromkeys(literal.arguments) if isinstance(a, int) and a in known]
        joined = [row + more for row in rows for more in index.get(tuple(row[p] for p in places), ())]
        return joined, known + new
