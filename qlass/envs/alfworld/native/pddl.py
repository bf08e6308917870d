"""PDDL as ALFRED writes it: a reader of the domain and of problems, with conditions as alternatives of literals.

What is read is what `alfred.pddl` and ALFRED's goals use: types, `and`, `or`, `not`, `imply`, `exists`, `=`, conditional
effects and action costs (which nothing here needs). Anything else is refused with a message. As in fast-downward,
names are lower case, every type is a subtype of `object`, and a comma belongs to the word before it: the domain's
`(?l - location, ?r - receptacle)` asks for a type `location,` that nothing has, so only held objects can be examined.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property, lru_cache
from itertools import chain, count, product
from typing import Any, NamedTuple, TypeAlias

from qlass.errors import EnvironmentFault

Fact: TypeAlias = tuple[str, ...]
"""Predicate and the names of its arguments."""

Expression: TypeAlias = list[Any]
"""A list of words and expressions."""

Typed: TypeAlias = dict[str, str]
"""Name of a variable or object -> name of its type, in the order of the text."""


class Literal(NamedTuple):
    """A predicate over variables (`?o`) and names, or its negation."""

    predicate: str
    terms: tuple[str, ...]
    positive: bool

    def replace(self, values: Mapping[str, str]) -> Literal:
        """Return the literal with other terms for some variables."""
        return self._replace(terms=tuple(values.get(term, term) for term in self.terms))


class Clause(NamedTuple):
    """One alternative of a condition: literals that hold together for some values of the quantified variables."""

    variables: Typed
    literals: tuple[Literal, ...]

    def replace(self, values: Mapping[str, str]) -> Clause:
        """Return the clause with names for some variables."""
        return self._replace(literals=tuple(x.replace(values) for x in self.literals))


class Conjunct(NamedTuple):
    """A part of a goal: for all values of the variables, one of the alternatives holds."""

    variables: Typed
    alternatives: tuple[Clause, ...]


class Effect(NamedTuple):
    """What becomes true or false, where all literals of the condition held before."""

    literal: Literal
    condition: tuple[Literal, ...]


@dataclass(frozen=True, slots=True)
class Schema:
    """An action of the domain; it can be executed where one of the alternatives holds."""

    name: str
    parameters: Typed
    alternatives: tuple[Clause, ...]
    effects: tuple[Effect, ...]


@dataclass(frozen=True, eq=False)
class Domain:
    """Types (name -> parent), predicates (name -> number of arguments) and actions."""

    types: Typed
    predicates: Mapping[str, int]
    schemas: tuple[Schema, ...]

    @cached_property
    def fluents(self) -> frozenset[str]:
        """The predicates that some action changes; all others are constant during a game."""
        return frozenset(effect.literal.predicate for schema in self.schemas for effect in schema.effects)


@dataclass(frozen=True, slots=True)
class Problem:
    """Objects, the facts of the first state, and the parts of the goal."""

    objects: Typed
    init: frozenset[Fact]
    goal: tuple[Conjunct, ...]


def unsupported(what: str) -> EnvironmentFault:
    """Return the error for a game that needs more than the native engine knows."""
    return EnvironmentFault(
        f"alfworld native engine: {what}; it knows what ALFRED's domain, goals and grammar use. Set the option "
        "`engine: textworld` for this game."
    )


@lru_cache(maxsize=8)
def parse_domain(text: str) -> Domain:
    """Read a domain.

    Raises:
        EnvironmentFault: the domain uses what ALFRED's does not.
        ValueError, KeyError, IndexError: the text is not PDDL.
    """
    sections = _read(text)
    schemas = tuple(_schema(section) for section in sections if section[0] == ":action")
    extra = {section[0] for section in sections} - {"domain", ":requirements", ":types", ":predicates", ":functions"}
    if extra - {":action"}:
        raise unsupported(f"the domain has {', '.join(sorted(extra - {':action'}))}")
    predicates = {name: len(_typed(words)) for name, *words in _section(sections, ":predicates")}
    return Domain(_typed(_section(sections, ":types")), predicates, schemas)


def parse_problem(text: str) -> Problem:
    """Read a problem.

    Raises:
        EnvironmentFault: the goal uses what ALFRED's goals do not.
        ValueError, KeyError, IndexError: the text is not PDDL.
    """
    sections = _read(text)
    (goal,) = _section(sections, ":goal")
    # Distances of old games, `(= (distance a b) 3)`, are no facts.
    init = frozenset(tuple(fact) for fact in _section(sections, ":init") if fact[0] not in ("=", "not"))
    parts = goal[1:] if goal[0] == "and" else [goal]
    return Problem(_typed(_section(sections, ":objects")), init, tuple(_conjunct(part) for part in parts))


def check_declared(domain: Domain, problem: Problem) -> None:
    """Check that a problem speaks only of what is declared: as much of it as fast-downward and TextWorld do.

    A fact of a predicate that the domain does not know is nobody's business.

    Raises:
        ValueError: names what is not declared.
    """
    kinds = {*domain.types, "object"}
    clauses = [clause for conjunct in problem.goal for clause in conjunct.alternatives]
    variables = [*(x.variables for x in problem.goal), *(x.variables for x in clauses)]
    for name, kind in chain(problem.objects.items(), *(x.items() for x in variables)):
        if kind not in kinds:
            raise ValueError(f"{name!r} is of the type {kind!r}, which is not declared")
    goals = [(x.predicate, *x.terms) for clause in clauses for x in clause.literals if x.predicate != "="]
    for fact in goals:
        if fact[0] not in domain.predicates:
            raise ValueError(f"the goal has the predicate {fact[0]!r}, which is not declared")
    for predicate, *arguments in (*goals, *sorted(problem.init)):
        for name in arguments:
            if not name.startswith("?") and name not in problem.objects:
                raise ValueError(f"{predicate!r} is about {name!r}, which is not declared")
        if len(arguments) != domain.predicates.get(predicate, len(arguments)):
            raise ValueError(f"{predicate!r} has {len(arguments)} arguments, expected {domain.predicates[predicate]}")


def _conjunct(expression: Expression) -> Conjunct:
    if (
        expression[0] == "forall"
    ):  # ALFRED's own goals, before ALFWorld's: `(forall (?r - receptacle) (not (opened ?r)))`
        _, variables, condition = expression
        return Conjunct(_typed(variables), tuple(_clauses(condition)))
    return Conjunct({}, tuple(_clauses(expression)))


def _read(text: str) -> list[Expression]:
    """Return the sections of `(define ...)`."""
    stack: list[Expression] = [[]]
    words = re.sub(r";[^\n]*", "", text).lower().replace("(", " ( ").replace(")", " ) ").split()
    for token in words:
        if token == "(":
            stack.append([])
        elif token != ")":
            stack[-1].append(token)
        elif len(stack) > 1:
            closed = stack.pop()
            stack[-1].append(closed)
    if len(stack) != 1 or len(stack[0]) != 1 or stack[0][0][:1] != ["define"]:
        raise ValueError("not one balanced `(define ...)`")
    sections: list[Expression] = stack[0][0][1:]
    return sections


def _section(sections: list[Expression], name: str) -> Expression:
    return next((section[1:] for section in sections if section[0] == name), [])


def _typed(words: list[str]) -> Typed:
    """Read `a b - cup c - lid d`; what has no type is an `object`."""
    typed: Typed = {}
    names: list[str] = []
    tokens = iter(words)
    for word in tokens:
        if word != "-":
            names.append(word)
            continue
        kind = next(tokens, "object")
        typed |= dict.fromkeys(names, kind)
        names = []
    return typed | dict.fromkeys(names, "object")


def _schema(section: Expression) -> Schema:
    _, name, *rest = section
    parts = dict(zip(rest[::2], rest[1::2], strict=True))
    return Schema(
        name,
        _typed(parts.get(":parameters", [])),
        tuple(_clauses(parts.get(":precondition", []))),
        tuple(_effects(parts[":effect"], ())),
    )


_fresh = count()


def _clauses(
    expression: Expression, *, positive: bool = True, renamed: Mapping[str, str] | None = None
) -> list[Clause]:
    """Return the alternatives (disjunctive normal form) of a condition, or of its negation.

    Quantified variables get names of their own, so that equal names in different places stay different variables.
    """
    renamed = renamed or {}
    if not expression:
        return [Clause({}, ())]
    head, *parts = expression
    if head == "not":
        return _clauses(parts[0], positive=not positive, renamed=renamed)
    if head == "imply":
        head, parts = "or", [["not", parts[0]], parts[1]]
    if head in ("and", "or"):
        alternatives = [_clauses(part, positive=positive, renamed=renamed) for part in parts]
        if (head == "and") != positive:
            return list(chain.from_iterable(alternatives))
        return [_joined(choice) for choice in product(*alternatives)]
    if (head, positive) in (("exists", True), ("forall", False)):
        kinds = _typed(parts[0])
        own = {name: f"{name}/{next(_fresh)}" for name in kinds}
        inner = _clauses(parts[1], positive=positive, renamed={**renamed, **own})
        return [Clause({own[v]: kind for v, kind in kinds.items()} | c.variables, c.literals) for c in inner]
    if head in ("exists", "forall"):
        raise unsupported("a condition is a `forall`")
    return [Clause({}, (Literal(head, tuple(parts), positive).replace(renamed),))]


def _joined(clauses: tuple[Clause, ...]) -> Clause:
    variables: Typed = {}
    for clause in clauses:
        variables |= clause.variables
    return Clause(variables, tuple(literal for clause in clauses for literal in clause.literals))


def _effects(expression: Expression, condition: tuple[Literal, ...]) -> list[Effect]:
    head, *parts = expression
    if head == "and":
        return [effect for part in parts for effect in _effects(part, condition)]
    if head == "increase":
        return []
    if head == "when":
        alternatives = _clauses(parts[0])
        if len(alternatives) != 1 or alternatives[0].variables:
            raise unsupported("the condition of an effect is more than a conjunction")
        return _effects(parts[1], condition + alternatives[0].literals)
    if head == "forall":
        raise unsupported("an effect is a `forall`")
    return [Effect(clause.literals[0], condition) for clause in _clauses(expression)]
