"""The planning problem of one game: which operators are applicable in a state, and what they make of it.

That is asked at every step, so it must not cost a look at all operators of a game (2,000 to 30,000):

* an operator is filed under the fact of the pivot that it needs (`rules.py`: in ALFRED, where the agent is), and is
  looked at only in states where that fact holds;
* an operator is made when its trigger, another fact that it needs, first becomes true (in ALFRED, that the object lies
  in the receptacle, or is held), so most operators are never made.

Source of the semantics: fast-downward-textworld 20.6.4 with TextWorld's options. An action that deletes and adds a fact
adds it; an operator whose effects are all among its conditions does not exist (one cannot go where one is).
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from itertools import product
from typing import NamedTuple, cast

from qlass.envs.alfworld.native.facts import NOT, FactTable, State
from qlass.envs.alfworld.native.pddl import Clause, Conjunct, Domain, Fact, Problem
from qlass.envs.alfworld.native.rules import PartialRow, Pattern, Row, Rule, choose_pivot, rules_by_trigger


class Change(NamedTuple):
    """Bits that are set and cleared, where the bits of the condition are as asked."""

    needs: State
    forbids: State
    adds: State
    deletes: State


@dataclass(frozen=True, slots=True, eq=False)
class Operator:
    """A ground action: `needs` are the bits that must be set, `forbids` those that must not."""

    rule: Rule
    row: Row
    needs: State
    forbids: State

    @property
    def schema(self) -> str:
        """Name of the action."""
        return self.rule.schema

    @property
    def arguments(self) -> Row:
        """Values of the action's parameters; empty for one that only says where a moving agent was."""
        return self.row[: self.rule.parameters]


class World:
    """The problem of one game. It does not change, except that it remembers the operators that it made."""

    def __init__(self, domain: Domain, problem: Problem, queried: frozenset[str], words: frozenset[str]) -> None:
        """Number the facts of the first state and make its operators.

        Args:
            domain: types and actions.
            problem: objects, first state and goal.
            queried: predicates that the text grammar asks for, also such as `not_inreceptacle`.
            words: all words of the text grammar: the variables that it may ask for.

        Raises:
            ValueError: a part of the goal can never hold.
        """
        self.fluents = domain.fluents
        constants = {fact for fact in problem.init if fact[0] not in self.fluents}
        equal = {("=", name, name) for name in problem.objects}
        tracked = _predicates_read(domain, problem) | queried
        self.table = FactTable(sorted(constants | equal), tracked, problem.objects, domain.types)
        self._pivot = choose_pivot(domain, problem.init, queried)
        spoken = {name for schema in domain.schemas for name in schema.parameters if name.removeprefix("?") in words}
        self._rules = rules_by_trigger(domain, self._pivot, frozenset(spoken))
        self._filed: defaultdict[State, list[Operator]] = defaultdict(list)
        self._pivots: State = 0
        self._triggered: set[Fact] = set()
        self._started: set[tuple[Rule, PartialRow]] = set()
        self._changes: dict[Operator, tuple[Change, ...]] = {}
        self._trigger(("",))
        self.initial: State = 0
        for fact in sorted(problem.init - constants):
            self.initial |= self.table.bit(fact)
            self._trigger(fact)
        self._goal: list[list[tuple[State, State]]] = []
        for ways in (ways for conjunct in problem.goal for ways in self._required(conjunct)):
            if not any(all(self._possible(fact, problem.init) for fact in needs) for needs, _ in ways):
                raise ValueError("the goal can never be reached")
            self._goal.append([(self.table.bits(needs), self.table.bits(forbids)) for needs, forbids in ways])

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
        # The place that a moving agent leaves is the one where it is.
        adds, deletes = 0, self.table.mask(self._pivot, ()) if operator.rule.loose else 0
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
            if start is None:
                continue
            start = tuple("" if i in rule.loose else value for i, value in enumerate(start))
            if (rule, start) not in self._started:
                self._started.add((rule, start))
                for row in self._joined(rule, rule.joins, start):
                    self._make(rule, row)

    def _make(self, rule: Rule, row: Row) -> None:
        """Make one operator and file it under the fact of the pivot that it needs."""
        needs, forbids = {x.fact(row) for x in rule.needs}, {x.fact(row) for x in rule.forbids}
        always, *conditional = rule.outcomes
        gains = {x.fact(row) for x in always.adds}
        losses = {x.fact(row) for x in always.deletes} - gains
        if not conditional and losses <= forbids:  # It does nothing but make facts true.
            if gains <= needs:  # Nothing at all: fast-downward has no such operator.
                return
            # Of a loose rule, fast-downward has one operator per place to leave, but none for the place to go to.
            if rule.loose and all(fact[0] == self._pivot for fact in gains - needs):
                forbids |= gains - needs
        if needs & forbids:
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

    def _required(self, conjunct: Conjunct) -> Iterator[list[tuple[list[Fact], list[Fact]]]]:
        """Yield lists of which one way each must hold."""
        for names in product(*map(self.table.of_type, conjunct.variables.values())):
            values = dict(zip(conjunct.variables, names, strict=True))
            yield [way for clause in conjunct.alternatives for way in self._ways(clause.replace(values))]

    def _ways(self, clause: Clause) -> Iterator[tuple[list[Fact], list[Fact]]]:
        """Yield the facts that must and must not hold, for every way in which a clause of the goal can hold."""
        rule = Rule(clause, self.fluents)
        for row in self._joined(rule, rule.joins, rule.blank):
            yield [x.fact(row) for x in rule.needs], [x.fact(row) for x in rule.forbids]

    def _possible(self, fact: Fact, init: frozenset[Fact]) -> bool:
        """Return whether a fact holds at first, or some action that the constant facts allow makes it true."""
        if fact in init:
            return True
        for rule in (rule for rules in self._rules.values() for rule in rules):
            for pattern in (x for outcome in rule.outcomes for x in outcome.adds if x.predicate == fact[0]):
                start = self._unified(rule, pattern, fact, rule.blank)
                if start is not None and next(self._joined(rule, rule.joins, start), None) is not None:
                    return True
        return False

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


def _predicates_read(domain: Domain, problem: Problem) -> frozenset[str]:
    """Return the predicates that conditions and the goal ask for."""
    clauses = [clause for schema in domain.schemas for clause in schema.alternatives]
    clauses += [clause for conjunct in problem.goal for clause in conjunct.alternatives]
    literals = [literal for clause in clauses for literal in clause.literals]
    literals += [literal for schema in domain.schemas for effect in schema.effects for literal in effect.condition]
    return frozenset(literal.predicate for literal in literals)
