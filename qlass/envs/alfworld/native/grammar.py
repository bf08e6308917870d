"""TextWorld's text grammar (`.twl2`): parsed here, and rendered in the states of a game.

A grammar has one command template and one feedback per action, and rules that both refer to. A text is made of

* plain text, and `#name#`, the first rule of that name whose condition has a match;
* `{expression}`, a Python expression over the entities in scope, for example `{r.name}`;
* `{expression | condition}` and `{#name# | condition}`, once for every match of the condition;
* `[{... | condition}]`, the same as a list with commas.

A condition is a conjunction such as `holds(a:agent, o:object)`. Its matches come in TextWorld's order: facts sorted by
their arguments, the first predicate outermost, and different variables never stand for the same entity.

*Differs from TextWorld:* it sorts the facts of a predicate by their types first, which matters only where one predicate
is about things of several types; of ALFRED's, only `checked` is, and its grammar never asks for it.

A grammar's expressions are evaluated: load trusted game files only (as with TextWorld itself).

Source: textworld 1.7.0, `envs/pddl/logic/logic.ebnf`, `envs/pddl/textgen/textgen.ebnf` and their evaluation, quirks
included: a text loses white space at its very start, and whatever follows its first malformed symbol.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import lru_cache
from types import CodeType
from typing import NamedTuple, TypeAlias

from qlass.envs.alfworld.native.facts import FactTable, Known, State
from qlass.envs.alfworld.native.pddl import Fact, unsupported
from qlass.errors import EnvironmentFault

Variable: TypeAlias = tuple[str, str]
"""Name and type."""

Binding: TypeAlias = Mapping[Variable, str]
"""What variables stand for: names of the problem."""


@dataclass(frozen=True, slots=True)
class Entity:
    """What an expression can say about a thing: `id` is the problem's name, `name` the one that players see."""

    id: str
    name: str
    definite: str = "the"
    indefinite: str = "a"

    def __str__(self) -> str:
        return self.name


class Context(NamedTuple):
    """What a text is rendered in."""

    grammar: Grammar
    table: FactTable
    entities: Mapping[str, Entity]
    state: State
    bound: Binding


class Condition(NamedTuple):
    """One predicate of a condition over its variables."""

    predicate: str
    variables: tuple[Variable, ...]

    def known(self, bound: Binding) -> Known:
        """Return the first argument that a binding fixes."""
        for position, variable in enumerate(self.variables, 1):
            if variable in bound:
                return position, bound[variable]
        return ()

    def bind(self, fact: Fact, table: FactTable, bound: Binding) -> Binding | None:
        """Return a binding extended by one fact, None where the fact does not fit."""
        extended = dict(bound)
        for variable, name in zip(self.variables, fact[1:], strict=True):
            present = extended.get(variable)
            if present is None:
                if name in extended.values() or not table.is_a(name, variable[1]):
                    return None
                extended[variable] = name
            elif present != name:
                return None
        return extended


def matches(conditions: tuple[Condition, ...], context: Context) -> Iterator[Context]:
    """Yield the context of every way to satisfy all conditions."""
    if not conditions:
        yield context
        return
    first, rest = conditions[0], conditions[1:]
    for fact in sorted(context.table.holding(first.predicate, first.known(context.bound), context.state)):
        bound = first.bind(fact, context.table, context.bound)
        if bound is not None:
            yield from matches(rest, context._replace(bound=bound))


class Symbol:
    """A part of a text."""

    __slots__ = ()

    def pieces(self, context: Context) -> list[str]:
        """Return the texts that it stands for: one, or one per match of a condition."""
        raise NotImplementedError

    def conditions(self, grammar: Grammar) -> set[Condition]:  # noqa: ARG002 (most symbols ask for nothing)
        """Return everything that it may ask for."""
        return set()


Text: TypeAlias = tuple[Symbol, ...]


@dataclass(frozen=True, slots=True)
class Plain(Symbol):
    """Text as it is."""

    text: str

    def pieces(self, context: Context) -> list[str]:  # noqa: ARG002 (the same everywhere)
        """Return the text."""
        return [self.text]


@dataclass(frozen=True, slots=True)
class Expression(Symbol):
    """A Python expression over entities."""

    code: CodeType

    def pieces(self, context: Context) -> list[str]:
        """Return its value."""
        variables = {name: context.entities[value] for (name, _), value in context.bound.items()}
        return [str(eval(self.code, {}, variables))]  # noqa: S307 (the grammar language is Python)


@dataclass(frozen=True, slots=True)
class Reference(Symbol):
    """The first rule of a name whose condition has a match."""

    name: str

    def pieces(self, context: Context) -> list[str]:
        """Return the rule's text."""
        for condition, text in context.grammar.rules.get(self.name, ()):
            if next(matches(condition, context), None) is not None:
                return [render(text, context)]
        raise EnvironmentFault(f"alfworld grammar: no applicable rule #{self.name}#; add one to the game's grammar.")

    def conditions(self, grammar: Grammar) -> set[Condition]:
        """Return those of all rules of the name."""
        rules = grammar.rules.get(self.name, ())
        return {x for condition, text in rules for x in (*condition, *conditions(text, grammar))}


@dataclass(frozen=True, slots=True)
class Repeated(Symbol):
    """A symbol once for every match of a condition."""

    symbol: Symbol
    condition: tuple[Condition, ...]

    def pieces(self, context: Context) -> list[str]:
        """Return one text per match."""
        return [piece for match in matches(self.condition, context) for piece in self.symbol.pieces(match)]

    def conditions(self, grammar: Grammar) -> set[Condition]:
        """Return its condition and those of the symbol."""
        return {*self.condition, *self.symbol.conditions(grammar)}


@dataclass(frozen=True, slots=True)
class Listing(Symbol):
    """The texts of a symbol as a list: `a`, `a, and b`, `a, b, and c`, with the grammar's own separators."""

    symbol: Symbol

    def pieces(self, context: Context) -> list[str]:
        """Return the list."""
        found = self.symbol.pieces(context)
        if not found:
            return Reference("list_empty").pieces(context)
        if len(found) == 1:
            return found
        (separator,), (last,) = (Reference(f"list_{name}separator").pieces(context) for name in ("", "last_"))
        return [separator.join(found[:-1]) + last + found[-1]]

    def conditions(self, grammar: Grammar) -> set[Condition]:
        """Return those of the symbol."""
        return self.symbol.conditions(grammar)


def render(text: Text, context: Context) -> str:
    """Return a text in a context."""
    return "".join([piece for symbol in text for piece in symbol.pieces(context)])


def conditions(text: Text, grammar: Grammar) -> set[Condition]:
    """Return everything that a text may ask for."""
    return {condition for symbol in text for condition in symbol.conditions(grammar)}


class Grammar:
    """A game's grammar.

    Attributes:
        commands: action name in lower case -> the text of its command.
        feedbacks: action name in lower case -> the text that answers it.
        rules: name -> alternatives (condition, text), the first that matches counts.
    """

    def __init__(self, source: str) -> None:
        """Parse a `.twl2` text.

        Raises:
            EnvironmentFault: a condition is no conjunction of predicates.
            ValueError, KeyError: the text is no grammar.
        """
        self.commands: dict[str, Text] = {}
        self.feedbacks: dict[str, Text] = {}
        self.rules: dict[str, list[tuple[tuple[Condition, ...], Text]]] = {}
        self._parse(_tokens(source))

    def _parse(self, tokens: Iterator[str]) -> None:
        """Read `grammar :: \"\"\"...\"\"\";` and `action name { template :: "..."; feedback :: "..."; ... }`."""
        name = ""
        for token in tokens:
            if token == "action":
                name = next(tokens, "").lower()
                continue
            if token in "{};":
                continue
            separator, value = next(tokens, ""), next(tokens, "")
            if separator != "::":
                raise ValueError(f"{separator!r} after {token!r}, expected '::'")
            if token == "grammar":
                self._add_rules(json.loads(re.sub(r"(?m)^\s*#.*$", "", value[3:-3])))
            elif token in ("template", "feedback"):
                (self.commands if token == "template" else self.feedbacks)[name] = parse_text(value[1:-1])

    def _add_rules(self, rules: Mapping[str, list[Mapping[str, str]]]) -> None:
        for name, alternatives in rules.items():
            self.rules[name] = [
                (_parse_condition(rule.get("condition", "")), parse_text(rule["rhs"])) for rule in alternatives
            ]


def _tokens(source: str) -> Iterator[str]:
    found = re.finditer(r'\s+|#.*|("""(?:.|\n)*?"""|"[^"]*"|::|[{};]|[\w/-]+)', source)
    end = 0
    for token in found:
        if token.start() != end:
            break
        end = token.end()
        if token[1]:
            yield token[1]
    if end != len(source):
        raise ValueError(f"unexpected {source[end : end + 20]!r}")


_TAG = r"#([\w()/!<>\-\s,.]+)#"
_BRACED = rf"\{{(?:{_TAG}|([^|\[\]{{}}\n<>]+))(?:\s*\|\s*([^;|{{}}\n\[\]#]+))?\}}"
_SYMBOL = re.compile(rf'\[{_BRACED}\]|{_BRACED}|{_TAG}|"([^;|"<>\[\]#{{}}]*)"|([^;|"<>\[\]#{{}}]+)')


@lru_cache(maxsize=1024)
def parse_text(source: str) -> Text:
    """Parse a text with symbols; games share nearly all of them."""
    symbols: list[Symbol] = []
    source = source.lstrip().replace("\\n", "\n")
    position = 0
    while found := _SYMBOL.match(source, position):
        position = found.end()
        listed, braced, tag, quoted, plain = found.group(1, 2, 3), found.group(4, 5, 6), *found.group(7, 8, 9)
        if any(listed):
            symbols.append(Listing(_braced(*listed)))
        elif any(braced):
            symbols.append(_braced(*braced))
        else:
            symbols.append(Reference(tag) if tag else Plain(plain or quoted))
    return tuple(symbols)


def _braced(tag: str | None, expression: str | None, condition: str | None) -> Symbol:
    """Return what stands between braces: a reference or an expression, perhaps repeated."""
    symbol = Reference(tag) if tag else Expression(compile((expression or "").strip(), "<grammar>", "eval"))
    return Repeated(symbol, _parse_condition(condition)) if condition else symbol


def _parse_condition(source: str) -> tuple[Condition, ...]:
    """Parse `predicate(variable:type, ...) & ...`; an empty text is the condition that always holds."""
    found = []
    for part in source.split("&") if source.strip() else ():
        match = re.fullmatch(r"\s*([\w/]+)\(([\w':,/\s-]*)\)\s*", part)
        if match is None:
            raise unsupported(f"the grammar has the condition {source!r}")
        variables = [variable.strip().partition(":") for variable in match[2].split(",") if variable.strip()]
        found.append(Condition(match[1], tuple((name, kind or name.rstrip("'")) for name, _, kind in variables)))
    return tuple(found)
