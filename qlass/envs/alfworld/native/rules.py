"""Conditions and effects of actions over rows of values, sorted by when they can be decided.

A literal over a predicate that no action changes is decided once per game, by joins. The rest is decided in a state.
Most actions of ALFRED need to know where the agent is; that predicate is the *pivot*: exactly one of its facts holds in
every state, so operators can be filed under it, and an action that moves the agent needs no operator per starting point.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from functools import lru_cache
from typing import NamedTuple, TypeAlias

from qlass.envs.alfworld.native.facts import NOT
from qlass.envs.alfworld.native.pddl import Clause, Domain, Effect, Fact, Literal, Schema

Row: TypeAlias = tuple[str, ...]
"""Values of a rule's variables, then the names that the rule mentions."""

PartialRow: TypeAlias = tuple[str | None, ...]
"""The same while it is being joined; None is not known yet."""


class Pattern(NamedTuple):
    """A predicate over the values of a row, given by their positions."""

    predicate: str
    positions: tuple[int, ...]

    def fact(self, row: Row) -> Fact:
        """Return the fact of a full row."""
        return (self.predicate, *[row[i] for i in self.positions])


class Outcome(NamedTuple):
    """What becomes true and false where a condition holds."""

    needs: list[Pattern]
    forbids: list[Pattern]
    adds: list[Pattern]
    deletes: list[Pattern]


class Rule:
    """An action with one of its preconditions, or one alternative of a goal, over rows of values.

    Attributes:
        schema: name of the action.
        parameters: the first so many values of a row are those of the action's parameters.
        kinds: types of the variables.
        blank: the row of which nothing is known but the names.
        joins: constant facts that must hold, in the order of joining.
        excluded: constant facts that must not hold.
        needs: facts that a state must hold.
        forbids: facts that a state must not hold.
        pivot: the one of `needs` that operators are filed under, if any.
        trigger: the one of `needs` (or the pivot that a moving action leaves) that operators are made from, if any.
        loose: positions of values that only say what fact of the pivot an action leaves. They stay empty, and the
            action clears all facts of the pivot.
        outcomes: effects by condition, first those without.
    """

    def __init__(
        self,
        clause: Clause,
        fluents: frozenset[str],
        *,
        schema: Schema | None = None,
        pivot: str = "",
        spoken: frozenset[str] = frozenset(),
    ) -> None:
        """Sort the literals of a clause.

        Args:
            clause: alternative of a goal or of a precondition.
            fluents: predicates that actions change.
            schema: the action whose precondition it is.
            pivot: predicate of which always exactly one fact holds.
            spoken: variables that texts may ask for, so that they cannot be loose.
        """
        variables = (schema.parameters if schema else {}) | clause.variables
        effects = schema.effects if schema else ()
        mentioned = [*clause.literals, *(x for effect in effects for x in (effect.literal, *effect.condition))]
        names = dict.fromkeys(term for x in mentioned for term in x.terms if term not in variables)
        self.schema = schema.name if schema else ""
        self.parameters = len(schema.parameters) if schema else 0
        self.kinds = list(variables.values())
        self.blank: PartialRow = (*[None] * len(variables), *names)
        self._positions = {term: i for i, term in enumerate((*variables, *names))}
        left = _left(clause, effects, pivot)
        self.loose = frozenset(self._positions[term] for term in _only_in(left, mentioned) - spoken)
        needs = [x for x in clause.literals if x.positive and x.predicate in fluents]
        trigger = next((x for x in needs if x.predicate != pivot), needs[0] if needs else None)
        self.trigger = self._patterns([trigger])[0] if trigger else None
        self.needs = self._patterns(x for x in needs if not (self.loose and x in left))
        self.pivot = next((x for x in self.needs if x.predicate == pivot), None)
        self.forbids = self._patterns(x for x in clause.literals if not x.positive and x.predicate in fluents)
        self.excluded = self._patterns(x for x in clause.literals if not x.positive and x.predicate not in fluents)
        constants = [x for x in clause.literals if x.positive and x.predicate not in fluents]
        self.joins = self._patterns(_order(constants, {*names, *(trigger.terms if trigger else ())}))
        kept = [x for x in effects if x.literal.positive or not (self.loose and _negated(x.literal) in left)]
        self.outcomes = [
            Outcome(
                self._patterns(x for x in condition if x.positive),
                self._patterns(x for x in condition if not x.positive),
                self._patterns(x.literal for x in kept if x.condition == condition and x.literal.positive),
                self._patterns(x.literal for x in kept if x.condition == condition and not x.literal.positive),
            )
            for condition in dict.fromkeys([(), *(effect.condition for effect in kept)])
        ]

    def _patterns(self, literals: Iterable[Literal]) -> list[Pattern]:
        return [Pattern(x.predicate, tuple(self._positions[term] for term in x.terms)) for x in literals]


def _negated(literal: Literal) -> Literal:
    return literal._replace(positive=not literal.positive)


def _left(clause: Clause, effects: Iterable[Effect], pivot: str) -> list[Literal]:
    """Return the literals of the pivot that an action needs and makes false."""
    deleted = {_negated(effect.literal) for effect in effects if not effect.condition}
    return [x for x in clause.literals if x.positive and x.predicate == pivot and x in deleted]


def _only_in(left: list[Literal], mentioned: list[Literal]) -> set[str]:
    """Return the variables that nothing mentions but the literals that are left, and their negations in the effects."""
    elsewhere = {term for x in mentioned if x not in left and _negated(x) not in left for term in x.terms}
    return {term for x in left for term in x.terms if term.startswith("?")} - elsewhere


def _order(literals: list[Literal], known: set[str]) -> list[Literal]:
    """Order joins so that each has as many known terms as possible when its turn comes."""
    ordered: list[Literal] = []
    waiting = list(literals)
    while waiting:
        best = max(waiting, key=lambda x: sum(term in known for term in x.terms))
        waiting.remove(best)
        ordered.append(best)
        known = known | set(best.terms)
    return ordered


@lru_cache(maxsize=8)
def rules_by_trigger(domain: Domain, pivot: str, spoken: frozenset[str]) -> dict[str, list[Rule]]:
    """Return the rules of all actions by the predicate of their trigger, which is "" where there is none."""
    rules: dict[str, list[Rule]] = {}
    for schema in domain.schemas:
        for clause in schema.alternatives:
            rule = Rule(clause, domain.fluents, schema=schema, pivot=pivot, spoken=spoken)
            rules.setdefault(rule.trigger.predicate if rule.trigger else "", []).append(rule)
    return rules


def choose_pivot(domain: Domain, init: frozenset[Fact], queried: frozenset[str]) -> str:
    """Return the predicate that most preconditions need, of those of which always exactly one fact holds; else ""."""
    clauses = [clause for schema in domain.schemas for clause in schema.alternatives]
    needed = Counter(name for clause in clauses for name in {x.predicate for x in clause.literals if x.positive})
    facts = Counter(fact[0] for fact in init)
    candidates = [
        name
        for name in domain.fluents
        # Which fact was left is not kept, so a grammar that asks for it (`not_atlocation`) needs all operators.
        if facts[name] == 1 and NOT + name not in queried and all(_moves(x, name) for x in domain.schemas)
    ]
    return max(sorted(candidates), key=lambda name: needed[name], default="")


def _moves(schema: Schema, predicate: str) -> bool:
    """Return whether an action leaves a predicate alone, or replaces the one fact that it needs by one other."""
    changes = [effect for effect in schema.effects if effect.literal.predicate == predicate]
    if not changes:
        return True
    return sorted((x.literal.positive, len(x.condition)) for x in changes) == [(False, 0), (True, 0)] and all(
        _left(clause, changes, predicate) for clause in schema.alternatives
    )
