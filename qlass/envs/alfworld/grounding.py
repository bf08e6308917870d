"""Grounding: from a normalised PDDL task to SAS, four times faster than fast-downward's Python translator.

fast-downward parses and normalises the task; then its `instantiate.explore` and `translate.pddl_to_sas` compute the
reachable ground actions with a general Datalog engine. ALFRED needs less: almost every precondition is a constant fact.
So constant conditions are joined first, and reachability is a count of missing facts per candidate.

The result has the same facts, operators, goal and initial state; only their numbering differs, which no text, command
or reward depends on (compared in `tests/envs/test_alfworld_engine.py`). A task that uses more of PDDL than ALFRED does
gives None, and the caller takes fast-downward's own way.

Source: fast-downward-textworld 20.6.4, `translate/instantiate.py`, `translate/translate.py`, with the options that
TextWorld sets (no invariants, nothing filtered), under which every variable has two values.
"""

from __future__ import annotations

from collections import defaultdict
from typing import TYPE_CHECKING, Any, NamedTuple

from qlass.envs.alfworld.joins import Fact, Literal, Tables

if TYPE_CHECKING:
    from collections.abc import Iterable

HOLDS, FAILS = 0, 1
"""Values of a SAS variable: the fact, and its negation."""


class UnsupportedTaskError(Exception):
    """The task uses something that ALFRED's domain does not."""


class Candidate(NamedTuple):
    """A ground action or axiom whose constant conditions hold; `flips` are facts that it toggles."""

    name: str
    needs: list[Fact]
    forbids: list[Fact]
    adds: list[Fact]
    deletes: list[Fact]
    flips: list[Fact]


def _literals(condition: Any, positions: dict[str, int]) -> list[Literal]:
    """Flatten a normalised condition (a literal, or a conjunction of literals)."""
    if hasattr(condition, "predicate"):
        arguments = tuple(positions.get(a, a) for a in condition.args)
        return [Literal(condition.predicate, arguments, condition.negated)]
    if type(condition).__name__ not in ("Conjunction", "Truth"):
        raise UnsupportedTaskError(type(condition).__name__)
    return [x for part in condition.parts for x in _literals(part, positions)]


def _action_candidates(action: Any, tables: Tables) -> list[Candidate]:
    positions = {p.name: i for i, p in enumerate(action.parameters)}
    conditions = _literals(action.precondition, positions)
    adds: list[Literal] = []
    deletes: list[Literal] = []
    toggles: dict[Literal, list[bool]] = {}
    for effect in action.effects:
        if effect.parameters:
            raise UnsupportedTaskError("forall in an effect")
        (literal,), when = _literals(effect.literal, positions), _literals(effect.condition, positions)
        if not when:
            (deletes if literal.negated else adds).append(literal)
        elif when == [literal._replace(negated=not literal.negated)]:
            toggles.setdefault(literal._replace(negated=False), []).append(literal.negated)
        else:
            raise UnsupportedTaskError("conditional effect")
    if any(len(set(signs)) != 2 for signs in toggles.values()) or {x.predicate for x in toggles} & {
        x.predicate for x in (*adds, *deletes, *conditions)
    }:
        raise UnsupportedTaskError("conditional effect")
    needs = [x for x in conditions if not x.negated and x.predicate in tables.fluents]
    forbids = [x for x in conditions if x.negated and x.predicate in tables.fluents]
    external = action.num_external_parameters
    return [
        Candidate(
            " ".join((action.name, *row[:external])),
            [x.fact(row) for x in needs],
            [x.fact(row) for x in forbids],
            [x.fact(row) for x in adds],
            [x.fact(row) for x in deletes],
            [x.fact(row) for x in toggles],
        )
        for row in tables.join(action.parameters, conditions)
    ]


def _axiom_candidates(axiom: Any, tables: Tables) -> list[Candidate]:
    positions = {p.name: i for i, p in enumerate(axiom.parameters)}
    conditions = _literals(axiom.condition, positions)
    if axiom.num_external_parameters:
        raise UnsupportedTaskError("derived predicate with parameters")
    fluent = [x for x in conditions if x.predicate in tables.fluents]
    return [
        Candidate(
            axiom.name,
            [x.fact(row) for x in fluent if not x.negated],
            [x.fact(row) for x in fluent if x.negated],
            [(axiom.name,)],
            [],
            [],
        )
        for row in tables.join(axiom.parameters, conditions)
    ]


def _reach(init: Iterable[Fact], candidates: list[Candidate]) -> tuple[dict[Fact, int], list[Candidate]]:
    """Number all facts that can become true when nothing is ever deleted, and pick the candidates that can apply."""
    missing = [len(set(c.needs)) for c in candidates]
    waiting: dict[Fact, list[int]] = defaultdict(list)
    for i, candidate in enumerate(candidates):
        for fact in set(candidate.needs):
            waiting[fact].append(i)
    numbers: dict[Fact, int] = {}
    queue = list(init)
    ready = [i for i, count in enumerate(missing) if not count]
    applicable = []
    while queue or ready:
        for i in ready:
            applicable.append(i)
            queue += (*candidates[i].adds, *candidates[i].flips)
        ready = []
        for fact in queue:
            if fact not in numbers:
                numbers[fact] = len(numbers)
                for i in waiting[fact]:
                    missing[i] -= 1
                    if not missing[i]:
                        ready.append(i)
        queue = []
    return numbers, [candidates[i] for i in sorted(applicable)]


def _operator(candidate: Candidate, numbers: dict[Fact, int]) -> str | None:
    """Return the SAS text of a ground action, None where it cannot apply or changes nothing."""
    condition = {numbers[fact]: HOLDS for fact in candidate.needs}
    for fact in candidate.forbids:
        if condition.setdefault(numbers.get(fact, -1), FAILS) != FAILS:
            return None
    condition.pop(-1, None)  # A fact that can never hold needs no check.
    changes = {numbers[fact]: FAILS for fact in candidate.deletes if fact in numbers}
    changes |= {numbers[fact]: HOLDS for fact in candidate.adds}  # An action that deletes and adds a fact adds it.
    effects = []
    for variable, value in sorted(changes.items()):
        before = condition.get(variable, -1)
        if before != value:
            effects.append(f"0 {variable} {before} {value}")
            condition.pop(variable, None)
    for fact in candidate.flips:
        variable = numbers[fact]
        effects += [f"1 {variable} {value} {variable} -1 {1 - value}" for value in (FAILS, HOLDS)]
    if not effects:
        return None
    prevail = [f"{variable} {value}" for variable, value in sorted(condition.items())]
    lines = ("begin_operator", candidate.name, str(len(prevail)), *prevail, str(len(effects)), *effects, "1")
    return "\n".join((*lines, "end_operator"))


def _goal(task: Any, numbers: dict[Fact, int], init: set[Fact]) -> list[int]:
    """Return the numbers of the goal's facts, leaving out those that hold in every state."""
    facts = []
    for literal in _literals(task.goal, {}):
        fact = literal.fact(())
        if literal.negated or (fact not in numbers and fact not in init):
            raise UnsupportedTaskError("negative or unreachable goal")
        if fact in numbers:
            facts.append(numbers[fact])
    if not facts:
        raise UnsupportedTaskError("goal without facts that change")
    return facts


def _variable(number: int, fact: Fact, derived: bool) -> str:
    name = f"{fact[0]}({', '.join(fact[1:])})"
    return f"begin_variable\nvar{number}\n{0 if derived else -1}\n2\nAtom {name}\nNegatedAtom {name}\nend_variable"


def _rule(candidate: Candidate, numbers: dict[Fact, int]) -> str:
    conditions = {f"{numbers[fact]} {HOLDS}" for fact in candidate.needs}
    conditions |= {f"{numbers[fact]} {FAILS}" for fact in candidate.forbids if fact in numbers}
    effect = f"{numbers[candidate.adds[0]]} {FAILS} {HOLDS}"
    return "\n".join(("begin_rule", str(len(conditions)), *sorted(conditions), effect, "end_rule"))


def ground(task: Any) -> str | None:
    """Return the SAS text of a normalised task, or None where the task is not as simple as ALFRED's."""
    derived = {axiom.name for axiom in task.axioms}
    tables = Tables(task, {effect.literal.predicate for action in task.actions for effect in action.effects} | derived)
    try:
        actions = [c for action in task.actions for c in _action_candidates(action, tables)]
        axioms = [c for axiom in task.axioms for c in _axiom_candidates(axiom, tables)]
        if any(fact[0] in derived for c in (*actions, *axioms) for fact in (*c.needs, *c.forbids)):
            raise UnsupportedTaskError("condition on a derived predicate")
        numbers, applicable = _reach((f for f in sorted(tables.init) if f[0] in tables.fluents), [*actions, *axioms])
        goal = _goal(task, numbers, tables.init)
    except UnsupportedTaskError:
        return None
    rules = sorted({_rule(c, numbers) for c in applicable if c.adds and c.adds[0][0] in derived})
    operators = [_operator(c, numbers) for c in applicable if not (c.adds and c.adds[0][0] in derived)]
    texts = [text for text in operators if text is not None]
    return "\n".join(
        (
            "begin_version\n3\nend_version\nbegin_metric\n0\nend_metric",
            str(len(numbers)),
            *(_variable(number, fact, fact[0] in derived) for fact, number in numbers.items()),
            "0\nbegin_state",
            *(str(HOLDS if fact in tables.init else FAILS) for fact in numbers),
            f"end_state\nbegin_goal\n{len(goal)}",
            *(f"{number} {HOLDS}" for number in goal),
            f"end_goal\n{len(texts)}",
            *texts,
            str(len(rules)),
            *rules,
            "",
        )
    )
