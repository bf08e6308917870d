"""Facts of a game, and TextWorld's conjunctive queries over them.

The order of answers decides the order of words in observations, so it is that of
`textworld.logic.State.all_assignments` (textworld 1.7.0).
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import NamedTuple, TypeAlias

Signature: TypeAlias = tuple[str, tuple[str, ...]]
"""A predicate's name and the types of its arguments."""

Facts: TypeAlias = Mapping[Signature, frozenset[tuple[str, ...]]]
"""The facts that hold: argument names by signature."""

Placeholder: TypeAlias = tuple[str, str]
"""Name and type of a variable of a query."""


class Condition(NamedTuple):
    """One predicate of a query: its signatures (subtypes included) and its placeholders."""

    signatures: tuple[Signature, ...]
    placeholders: tuple[Placeholder, ...]


def _bind(
    condition: Condition, values: tuple[str, ...], bound: dict[Placeholder, str]
) -> dict[Placeholder, str] | None:
    """Return `bound` extended by one fact, or None: different placeholders never stand for the same entity."""
    extended = bound
    for placeholder, value in zip(condition.placeholders, values, strict=True):
        present = extended.get(placeholder)
        if present is None:
            if value in extended.values():
                return None
            extended = {**extended, placeholder: value}
        elif present != value:
            return None
    return extended


def matches(
    conditions: tuple[Condition, ...], bound: dict[Placeholder, str], facts: Facts
) -> Iterator[dict[Placeholder, str]]:
    """Yield every way to satisfy all conditions, in TextWorld's order (facts sorted, first condition outermost)."""
    if not conditions:
        yield bound
        return
    first, rest = conditions[0], conditions[1:]
    for signature in first.signatures:
        for values in sorted(facts.get(signature, ())):
            extended = _bind(first, values, bound)
            if extended is not None:
                yield from matches(rest, extended, facts)
