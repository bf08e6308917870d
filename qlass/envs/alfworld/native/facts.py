"""Facts of one game as bits, and the index by which conditions and texts find them.

A state is an `int`: the bits of the facts that hold. Only facts that something reads (a condition, the goal, the text
grammar) have a bit, so states that differ in nothing visible are equal. A fact gets its bit when it is first met;
a fact that was never met holds in no state.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from typing import TypeAlias

from qlass.envs.alfworld.native.pddl import Fact, Typed

State: TypeAlias = int
"""The bits of the facts that hold."""

Known: TypeAlias = tuple[int, str] | tuple[()]
"""Position (1 is the first) and name of one argument of a fact; empty where none is known."""


NOT = "not_"
"""TextWorld also keeps the facts that an action made false, under the predicate with this prefix.

*Differs from TextWorld:* it keeps none of facts that can never hold; ALFRED's grammar does not ask for such facts."""


class FactTable:
    """All facts met so far, under their predicate and under each of their arguments."""

    def __init__(self, constants: Iterable[Fact], tracked: frozenset[str], objects: Typed, types: Typed) -> None:
        """File the facts that hold in every state.

        Args:
            constants: facts that no action changes.
            tracked: predicates whose other facts get a bit.
            objects: name of an object -> its type.
            types: name of a type -> its supertype.
        """
        self._tracked = tracked
        self._bits: dict[Fact, State] = {}
        self._rows: defaultdict[tuple[str | int, ...], list[tuple[Fact, State]]] = defaultdict(list)
        self._masks: defaultdict[tuple[str | int, ...], State] = defaultdict(int)
        kinds = {kind: _supertypes(kind, types) for kind in set(objects.values())}
        self._kinds = {name: kinds[kind] for name, kind in objects.items()}
        self._of_kind: defaultdict[str, list[str]] = defaultdict(list)
        for name in objects:
            for kind in self._kinds[name]:
                self._of_kind[kind].append(name)
        for fact in constants:
            self._file(fact, 0)

    def is_a(self, name: str, kind: str) -> bool:
        """Return whether an object is of a type or of one of its subtypes."""
        return kind in self._kinds[name]

    def of_type(self, kind: str) -> list[str]:
        """Return all objects of a type, in the order of the problem."""
        return self._of_kind.get(kind, [])

    def bit(self, fact: Fact) -> State:
        """Return the bit of a fact that actions change, 0 where nothing reads it."""
        found = self._bits.get(fact)
        if found is None:
            if fact[0] not in self._tracked:
                return 0
            found = self._bits[fact] = 1 << len(self._bits)
            self._file(fact, found)
        return found

    def bits(self, facts: Iterable[Fact]) -> State:
        """Return the bits of several facts."""
        found = 0
        for fact in facts:
            found |= self.bit(fact)
        return found

    def holding(self, predicate: str, known: Known, state: State) -> list[Fact]:
        """Return the facts of a predicate, with one argument where it is known, that hold in a state."""
        # A constant fact has bit 0, which every state contains.
        return [fact for fact, bit in self._rows.get((predicate, *known), ()) if state & bit == bit]

    def mask(self, predicate: str, known: Known) -> State:
        """Return the bits that `holding` looks at: states with equal ones get equal answers."""
        return self._masks.get((predicate, *known), 0)

    def _file(self, fact: Fact, bit: State) -> None:
        for key in ((fact[0],), *((fact[0], i, name) for i, name in enumerate(fact[1:], 1))):
            self._rows[key].append((fact, bit))
            self._masks[key] |= bit


def _supertypes(kind: str, types: Typed) -> frozenset[str]:
    """Return a type and everything above it; as in fast-downward, `object` is above every type."""
    found = {"object"}
    while kind not in found:
        found.add(kind)
        kind = types.get(kind, "object")
    return frozenset(found)
