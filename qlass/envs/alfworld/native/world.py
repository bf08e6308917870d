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
from collections.abc import Iterable, Iterator
from functools import lru_cache
from typing import NamedTuple, TypeAlias, cast

from qlass.envs.alfworld.native.facts import FactTable, State
from qlass.envs.alfworld.native.pddl import Clause, Domain, Fact, Literal, Problem, Schema

Row: TypeAlias = tuple[str, ...]
"""Values of a rule's variables, then the names that the rule mentions."""

PartialRow: TypeAlias = tuple[str | None, ...]
"""The same while it is being joined."""

NOT = "not_"
"""TextWorld also keeps the facts that an action made false, under the predicate with this prefix."""


class Pattern(NamedTuple):
    """A predicate over the values of a row, given by their positions."""

    predicate: str
    positions: tuple[int, ...]

    def fact(self, row: Row) -> Fact:
        """Return the fact of a full row."""
        return (self.predicate, *[row[i] for i in self.positions])


class Rule:
    """A conjunction of literals, divided into what is constant during a game and what a state decides.

    Its rows hold the values of its variables (None where not known yet), then the names that its literals mention.
    """

    def __init__(self, clause: Clause, fluents: frozenset[str], pivot: str = "", schema: Schema | None = None) -> None:
        """Sort the literals of a clause; with a schema, the clause is one of its preconditions."""
        variables = (schema.parameters if schema else {}) | clause.variables
        effects = schema.effects if schema else ()
        self.schema = schema.name if schema else ""
        self.parameters = len(schema.parameters) if schema else 0
        self.kinds = list(variables.values())
        literals = [*clause.literals, *(x for e in effects for x in (e.literal, *e.condition))]
        names = dict.fromkeys(term for x in literals for term in x.terms if term not in variables)
        self.blank: PartialRow = (*[None] * len(variables), *names)
        self._positions = {term: i for i, term in enumerate((*variables, *names))}
        needs = [x for x in clause.literals if x.positive and x.predicate in fluents]
        constants = [x for x in clause.literals if x.positive and x.predicate not in fluents]
        trigger = next((x for x in needs if x.predicate != pivot), needs[0] if needs else None)
        self.needs = self._patterns(needs)
        self.forbids = self._patterns(x for x in clause.literals if not x.positive and x.predicate in fluents)
        self.excluded = self._patterns(x for x in clause.literals if not x.positive and x.predicate not in fluents)
        self.pivot = next((x for x in self.needs if x.predicate == pivot), None)
        self.trigger = self._patterns([trigger])[0] if trigger else None
        self.joins = self._patterns(_order(constants, {*names, *(trigger.terms if trigger else ())}))
        self.outcomes = [
            (
                self._patterns(x for x in condition if x.positive),
                self._patterns(x for x in condition if not x.positive),
                self._patterns(e.literal for e in effects if e.condition == condition and e.literal.positive),
                self._patterns(e.literal for e in effects if e.condition == condition and not e.literal.positive),
            )
            for condition in dict.fromkeys(effect.condition for effect in effects)
        ]

    def _patterns(self, literals: Iterable[Literal]) -> list[Pattern]:
        return [Pattern(x.predicate, tuple(self._positions[term] for term in x.terms)) for x in literals]


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


class Change(NamedTuple):
    """Bits that are set and cleared, where the bits of the condition are as asked."""

    needs: State
    forbids: State
    adds: State
    deletes: State


class Operator:
    """A ground action: `needs` are the bits that must be set, `forbids` those that must not."""

    __slots__ = ("arguments", "forbids", "needs", "row", "rule", "schema")

    def __init__(self, rule: Rule, row: Row, needs: State, forbids: State) -> None:
        self.rule = rule
        self.row = row
        self.schema = rule.schema
        self.arguments = row[: rule.parameters]
        self.needs = needs
        self.forbids = forbids


class World:
    """The problem of one game. It does not change, except that it remembers the operators that it made."""

    def __init__(self, domain: Domain, problem: Problem, queried: frozenset[str]) -> None:
        """Number the facts of the first state and make its operators.

        Args:
            domain: types and actions.
            problem: objects, first state and goal.
            queried: predicates that the text grammar asks for, also such as `not_inreceptacle`.
        """
        self.fluents = domain.fluents
        constants = {fact for fact in problem.init if fact[0] not in self.fluents}
        equal = {("=", name, name) for name in problem.objects}
        tracked = _predicates_read(domain, problem) | queried
        self.table = FactTable(sorted(constants | equal), tracked, problem.objects, domain.types)
        self._rules = _rules_by_trigger(domain)
        self._filed: defaultdict[State, list[Operator]] = defaultdict(list)
        self._pivots: State = 0
        self._triggered: set[Fact] = set()
        self._changes: dict[Operator, tuple[Change, ...]] = {}
        self._trigger(("",))
        self.initial: State = 0
        for fact in sorted(problem.init - constants):
            self.initial |= self.table.bit(fact)
            self._trigger(fact)
        self._goal = [[way for clause in part for way in self._ways(clause)] for part in problem.goal]

    def applicable(self, state: State) -> list[Operator]:
        """Return the operators that can be executed in a state, in no particular order."""
        filed = self._filed[0]
        pivots = state & self._pivots
        while pivots:
            lowest = pivots & -pivots
            filed = filed + self._filed[lowest]
            pivots ^= lowest
        return [x for x in filed if state & x.needs == x.needs and not state & x.forbids]

    def apply(self, operator: Operator, state: State) -> State:
        """Return the state after an operator."""
        changes = self._changes.get(operator)
        if changes is None:
            changes = self._changes[operator] = self._outcome(operator)
        adds = deletes = 0
        for change in changes:
            if state & change.needs == change.needs and not state & change.forbids:
                adds |= change.adds
                deletes |= change.deletes
        return state & ~deletes | adds

    def won(self, state: State) -> bool:
        """Return whether the goal holds."""
        return all(
            any(state & needs == needs and not state & forbids for needs, forbids in ways) for ways in self._goal
        )

    def _trigger(self, fact: Fact) -> None:
        """Make the operators that a fact triggers, when it is first met; the fact `("",)` triggers the others."""
        if fact in self._triggered:
            return
        self._triggered.add(fact)
        for rule in self._rules.get(fact[0], ()):
            start = self._unified(rule, rule.trigger, fact, rule.blank) if rule.trigger else rule.blank
            for row in self._joined(rule, rule.joins, start) if start is not None else ():
                self._make(rule, row)

    def _make(self, rule: Rule, row: Row) -> None:
        """Make one operator and file it under the fact of the pivot that it needs."""
        needs, forbids = {x.fact(row) for x in rule.needs}, {x.fact(row) for x in rule.forbids}
        if needs & forbids or _is_idle(rule, row, needs, forbids):
            return
        home = self.table.bit(rule.pivot.fact(row)) if rule.pivot else 0
        self._pivots |= home
        self._filed[home].append(Operator(rule, row, self.table.bits(needs), self.table.bits(forbids)))

    def _outcome(self, operator: Operator) -> tuple[Change, ...]:
        """Return what an operator changes, and make the operators that this may trigger."""
        changes, row, bits = [], operator.row, self.table.bits
        for needs, forbids, adds, deletes in operator.rule.outcomes:
            gains = {x.fact(row) for x in adds}
            losses = {x.fact(row) for x in deletes} - gains
            for fact in gains:
                self._trigger(fact)
            changes.append(
                Change(
                    bits(x.fact(row) for x in needs),
                    bits(x.fact(row) for x in forbids),
                    bits(gains) | bits((NOT + fact[0], *fact[1:]) for fact in losses),
                    bits(losses) | bits((NOT + fact[0], *fact[1:]) for fact in gains),
                )
            )
        return tuple(changes)

    def _ways(self, clause: Clause) -> Iterator[tuple[State, State]]:
        """Yield the bits that must and must not be set, for every way in which a clause of the goal can hold."""
        rule, bits = Rule(clause, self.fluents), self.table.bits
        for row in self._joined(rule, rule.joins, rule.blank):
            yield bits(x.fact(row) for x in rule.needs), bits(x.fact(row) for x in rule.forbids)

    def _joined(self, rule: Rule, joins: list[Pattern], row: PartialRow) -> Iterator[Row]:
        """Yield every completion of a row under which the constant conditions hold."""
        if joins:
            for fact in self._candidates(joins[0], row):
                extended = self._unified(rule, joins[0], fact, row)
                if extended is not None:
                    yield from self._joined(rule, joins[1:], extended)
        elif None in row:
            free = row.index(None)
            for value in self.table.of_type(rule.kinds[free]):
                yield from self._joined(rule, joins, (*row[:free], value, *row[free + 1 :]))
        else:
            full = cast("Row", row)
            if not any(x.fact(full) in self._candidates(x, row) for x in rule.excluded):
                yield full

    def _candidates(self, pattern: Pattern, row: PartialRow) -> list[Fact]:
        """Return the constant facts that a pattern can be, as far as its first known argument says."""
        for place, position in enumerate(pattern.positions, 1):
            name = row[position]
            if name is not None:
                return self.table.holding(pattern.predicate, (place, name), 0)
        return self.table.holding(pattern.predicate, (), 0)

    def _unified(self, rule: Rule, pattern: Pattern, fact: Fact, row: PartialRow) -> PartialRow | None:
        """Return the extension of a row under which a pattern is a fact, None where there is none."""
        extended = list(row)
        for position, value in zip(pattern.positions, fact[1:], strict=True):
            if extended[position] is None and self.table.is_a(value, rule.kinds[position]):
                extended[position] = value
            elif extended[position] != value:
                return None
        return tuple(extended)


def _is_idle(rule: Rule, row: Row, needs: set[Fact], forbids: set[Fact]) -> bool:
    """Return whether all effects of an operator are among its conditions."""
    if len(rule.outcomes) != 1:
        return False
    _, _, adds, deletes = rule.outcomes[0]
    gains = {x.fact(row) for x in adds}
    return gains <= needs and {x.fact(row) for x in deletes} - gains <= forbids


@lru_cache(maxsize=8)
def _rules_by_trigger(domain: Domain) -> dict[str, list[Rule]]:
    """Return the preconditions of all actions by the predicate of their trigger, which is "" where there is none."""
    needed = Counter(
        predicate
        for schema in domain.schemas
        for clause in schema.alternatives
        for predicate in {x.predicate for x in clause.literals if x.positive and x.predicate in domain.fluents}
    )
    pivot = min(needed, key=lambda predicate: (-needed[predicate], predicate), default="")
    rules: dict[str, list[Rule]] = {}
    for schema in domain.schemas:
        for clause in schema.alternatives:
            rule = Rule(clause, domain.fluents, pivot, schema)
            rules.setdefault(rule.trigger.predicate if rule.trigger else "", []).append(rule)
    return rules


def _predicates_read(domain: Domain, problem: Problem) -> frozenset[str]:
    """Return the predicates that conditions and the goal ask for."""
    clauses = [clause for schema in domain.schemas for clause in schema.alternatives]
    clauses += [clause for part in problem.goal for clause in part]
    literals = [literal for clause in clauses for literal in clause.literals]
    literals += [literal for schema in domain.schemas for effect in schema.effects for literal in effect.condition]
    return frozenset(literal.predicate for literal in literals)
