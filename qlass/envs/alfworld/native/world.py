"""The planning problem of one game: which operators are applicable in a state, and what they make of it.

That is asked at every step, so it must not cost a look at all operators of a game (2,000 to 30,000):

* the *pivot* is the predicate that most actions need, in ALFRED where the agent is. An operator is filed under the
  fact of the pivot that it needs, and is looked at only in states where that fact holds;
* the *trigger* of an operator is another fact that it needs, in ALFRED that the object lies in the receptacle, or is
  held. The operator is made when its trigger first becomes true, so most operators are never made.

Source of the semantics: fast-downward-textworld 20.6.4 with TextWorld's options. An action that deletes and adds a fact
adds it; an operator whose effects are all among its conditions does not exist (one cannot go where one is).
"""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TypeAlias

from qlass.envs.alfworld.native.facts import FactTable, State
from qlass.envs.alfworld.native.pddl import Clause, Domain, Fact, Literal, Problem, Schema

Binding: TypeAlias = Mapping[str, str]
"""Values of variables."""

NOT = "not_"
"""TextWorld also keeps the facts that an action made false, under the predicate with this prefix."""


@dataclass(frozen=True, slots=True)
class Change:
    """Bits that are set and cleared, where the bits of the condition are as asked."""

    needs: State
    forbids: State
    adds: State
    deletes: State

    def applies(self, state: State) -> bool:
        """Return whether the condition holds."""
        return state & self.needs == self.needs and not state & self.forbids


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """A ground action.

    Attributes:
        schema: name of the action.
        arguments: values of its parameters, in the schema's order.
        change: its condition, and what it always changes.
        conditional: what it changes in some states.
        gains: facts that it can make true.
    """

    schema: str
    arguments: tuple[str, ...]
    change: Change
    conditional: tuple[Change, ...]
    gains: tuple[Fact, ...]


class Rule:
    """An alternative of a condition, divided into what is constant during a game and what a state decides."""

    def __init__(self, clause: Clause, fluents: frozenset[str], pivot: str = "") -> None:
        self.variables = clause.variables
        self.needs = [x for x in clause.literals if x.positive and x.predicate in fluents]
        self.forbids = [x for x in clause.literals if not x.positive and x.predicate in fluents]
        self.excluded = [x for x in clause.literals if not x.positive and x.predicate not in fluents]
        self.pivot = next((x for x in self.needs if x.predicate == pivot), None)
        self.trigger = next((x for x in self.needs if x.predicate != pivot), self.pivot)
        constant = [x for x in clause.literals if x.positive and x.predicate not in fluents]
        self.joins = _order(constant, set(self.trigger.terms) if self.trigger else set())


def _order(literals: list[Literal], known: set[str]) -> list[Literal]:
    """Order joins so that each has as many known terms as possible when its turn comes."""
    ordered: list[Literal] = []
    waiting = list(literals)
    while waiting:
        best = max(waiting, key=lambda x: sum(term in known or _is_name(term) for term in x.terms))
        waiting.remove(best)
        ordered.append(best)
        known = known | set(best.terms)
    return ordered


def _is_name(term: str) -> bool:
    return not term.startswith("?")


class World:
    """The problem of one game. It does not change, except that it remembers the operators that it made."""

    def __init__(self, domain: Domain, problem: Problem, queried: frozenset[str]) -> None:
        """Number the facts of the first state and make its operators.

        Args:
            domain: types and actions.
            problem: objects, first state and goal.
            queried: predicates that the text grammar asks for, also such as `not_inreceptacle`.
        """
        self.fluents = frozenset(e.literal.predicate for schema in domain.schemas for e in schema.effects)
        constants = {fact for fact in problem.init if fact[0] not in self.fluents}
        equal = {("=", name, name) for name in problem.objects}
        tracked = _predicates_read(domain, problem) | queried
        self.table = FactTable(sorted(constants | equal), tracked, problem.objects, domain.types)
        self._rules = _rules_by_trigger(domain, self.fluents)
        self._filed: defaultdict[State, list[Operator]] = defaultdict(list)
        self._pivots: State = 0
        self._triggered: set[Fact] = set()
        self._trigger(("",))
        self.initial: State = 0
        for fact in sorted(problem.init - constants):
            self.initial |= self.table.bit(fact)
            self._trigger(fact)
        self._goal = [[way for clause in part for way in self._ways(clause)] for part in problem.goal]

    def applicable(self, state: State) -> Iterator[Operator]:
        """Yield the operators that can be executed in a state, in no particular order."""
        yield from (operator for operator in self._filed[0] if operator.change.applies(state))
        pivots = state & self._pivots
        while pivots:
            lowest = pivots & -pivots
            yield from (operator for operator in self._filed[lowest] if operator.change.applies(state))
            pivots ^= lowest

    def apply(self, operator: Operator, state: State) -> State:
        """Return the state after an operator."""
        for fact in operator.gains:
            self._trigger(fact)
        adds, deletes = operator.change.adds, operator.change.deletes
        for change in operator.conditional:
            if change.applies(state):
                adds, deletes = adds | change.adds, deletes | change.deletes
        return state & ~deletes | adds

    def won(self, state: State) -> bool:
        """Return whether the goal holds."""
        return all(any(way.applies(state) for way in ways) for ways in self._goal)

    def _trigger(self, fact: Fact) -> None:
        """Make the operators that a fact triggers, when it is first met; the fact `("",)` triggers the others."""
        if fact in self._triggered:
            return
        self._triggered.add(fact)
        for schema, rule in self._rules.get(fact[0], ()):
            start = self._unified(rule, rule.trigger, fact, {}) if rule.trigger else {}
            for bound in self._joined(rule, rule.joins, start) if start is not None else ():
                self._make(schema, rule, bound)

    def _make(self, schema: Schema, rule: Rule, bound: Binding) -> None:
        """Make one operator and file it under the fact of the pivot that it needs."""
        needs, forbids = ({x.fact(bound) for x in part} for part in (rule.needs, rule.forbids))
        adds, deletes = _effects(schema, bound, ())
        conditions = dict.fromkeys(effect.condition for effect in schema.effects if effect.condition)
        if needs & forbids or (adds <= needs and deletes <= forbids and not conditions):
            return
        conditional = []
        gains = list(adds)
        for condition in conditions:
            effects = _effects(schema, bound, condition)
            wanted, unwanted = ({x.fact(bound) for x in condition if x.positive is sign} for sign in (True, False))
            conditional.append(self._change(wanted, unwanted, *effects))
            gains += effects[0]
        home = self.table.bit(rule.pivot.fact(bound)) if rule.pivot else 0
        self._pivots |= home
        self._filed[home].append(
            Operator(
                schema.name,
                tuple(bound[name] for name in schema.parameters),
                self._change(needs, forbids, adds, deletes),
                tuple(conditional),
                tuple(gains),
            )
        )

    def _change(self, needs: set[Fact], forbids: set[Fact], adds: set[Fact], deletes: set[Fact]) -> Change:
        bits = self.table.bits
        negated_adds, negated_deletes = ([(NOT + fact[0], *fact[1:]) for fact in part] for part in (adds, deletes))
        return Change(
            bits(needs), bits(forbids), bits(adds) | bits(negated_deletes), bits(deletes) | bits(negated_adds)
        )

    def _ways(self, clause: Clause) -> Iterator[Change]:
        """Yield every way in which a clause of the goal can hold, as the condition of a change of nothing."""
        rule = Rule(clause, self.fluents)
        for bound in self._joined(rule, rule.joins, {}):
            needs, forbids = ({x.fact(bound) for x in part} for part in (rule.needs, rule.forbids))
            yield self._change(needs, forbids, set(), set())

    def _joined(self, rule: Rule, joins: list[Literal], bound: Binding) -> Iterator[Binding]:
        """Yield every extension of a binding to all variables under which the constant conditions hold."""
        if joins:
            for fact in self._candidates(joins[0], bound):
                extended = self._unified(rule, joins[0], fact, bound)
                if extended is not None:
                    yield from self._joined(rule, joins[1:], extended)
            return
        free = next((name for name in rule.variables if name not in bound), None)
        if free is not None:
            for value in self.table.of_type(rule.variables[free]):
                yield from self._joined(rule, joins, {**bound, free: value})
        elif not any(x.fact(bound) in self._candidates(x, bound) for x in rule.excluded):
            yield bound

    def _candidates(self, literal: Literal, bound: Binding) -> list[Fact]:
        """Return the constant facts that a literal can be, as far as its first known term says."""
        for position, term in enumerate(literal.terms, 1):
            if _is_name(term) or term in bound:
                return self.table.holding(literal.predicate, (position, bound.get(term, term)), 0)
        return self.table.holding(literal.predicate, (), 0)

    def _unified(self, rule: Rule, literal: Literal, fact: Fact, bound: Binding) -> Binding | None:
        """Return the extension of a binding under which a literal is a fact, None where there is none."""
        extended = dict(bound)
        for term, value in zip(literal.terms, fact[1:], strict=True):
            if _is_name(term):
                fits = term == value
            else:
                fits = extended.setdefault(term, value) == value and self.table.is_a(value, rule.variables[term])
            if not fits:
                return None
        return extended


def _effects(schema: Schema, bound: Binding, condition: tuple[Literal, ...]) -> tuple[set[Fact], set[Fact]]:
    """Return the facts that a ground action makes true and false under one condition (empty: always)."""
    literals = [effect.literal for effect in schema.effects if effect.condition == condition]
    adds = {x.fact(bound) for x in literals if x.positive}
    return adds, {x.fact(bound) for x in literals if not x.positive} - adds


def _rules_by_trigger(domain: Domain, fluents: frozenset[str]) -> dict[str, list[tuple[Schema, Rule]]]:
    """Return the rules of all actions by the predicate of their trigger, which is "" where there is none."""
    needed = Counter(
        predicate
        for schema in domain.schemas
        for clause in schema.alternatives
        for predicate in {x.predicate for x in clause.literals if x.positive and x.predicate in fluents}
    )
    pivot = min(needed, key=lambda predicate: (-needed[predicate], predicate), default="")
    rules: dict[str, list[tuple[Schema, Rule]]] = {}
    for schema in domain.schemas:
        for clause in schema.alternatives:
            rule = Rule(Clause(schema.parameters | clause.variables, clause.literals), fluents, pivot)
            rules.setdefault(rule.trigger.predicate if rule.trigger else "", []).append((schema, rule))
    return rules


def _predicates_read(domain: Domain, problem: Problem) -> frozenset[str]:
    """Return the predicates that conditions and the goal ask for."""
    clauses = [clause for schema in domain.schemas for clause in schema.alternatives]
    clauses += [clause for part in problem.goal for clause in part]
    literals = [literal for clause in clauses for literal in clause.literals]
    literals += [literal for schema in domain.schemas for effect in schema.effects for literal in effect.condition]
    return frozenset(literal.predicate for literal in literals)
