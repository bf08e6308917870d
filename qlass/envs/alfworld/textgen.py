"""Text generation: TextWorld's context-sensitive grammar, evaluated without its deep copies and repeated parsing.

The grammar is parsed by TextWorld's own parsers. Only the evaluation is ours; it follows
`textworld/envs/pddl/textgen/__init__.py` (textworld 1.7.0), and
`tests/envs/test_alfworld_engine.py` compares every character with the stock engine.

A grammar holds Python expressions that are evaluated: load trusted game files only (as with TextWorld itself).
"""

from __future__ import annotations

import functools
import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple, TypeAlias

from qlass.envs.alfworld.queries import Condition, Facts, Placeholder, matches
from qlass.errors import EnvironmentFault

Types: TypeAlias = tuple[tuple[str, tuple[str, ...]], ...]
"""Every type of the domain with its supertypes."""


class Context(NamedTuple):
    """What a symbol is evaluated in."""

    facts: Facts
    bound: dict[Placeholder, str]
    variables: dict[str, Any]
    entities: Mapping[str, Any]


Symbol: TypeAlias = Callable[[Context], list[str]]
"""Evaluates to the texts that the symbol stands for (a list symbol joins them with commas)."""


class Rule(NamedTuple):
    """One production: used where the condition has a match."""

    condition: tuple[Condition, ...]
    symbols: tuple[Symbol, ...]


@dataclass(frozen=True, slots=True)
class Template:
    """A compiled text with symbols; `queried` are the predicates that it looks up."""

    symbols: tuple[Symbol, ...]
    queried: frozenset[str]

    def render(self, context: Context) -> str:
        """Return the text in a context."""
        return _text(self.symbols, context)


def _text(symbols: tuple[Symbol, ...], context: Context) -> str:
    return "".join(piece for symbol in symbols for piece in symbol(context))


class Grammar:
    """A game's grammar: templates of commands and feedback, by action name."""

    def __init__(self, text: str, types: Types) -> None:
        """Compile a twl2 text. Parsing (0.07 CPU-s) is shared by all games that differ in the task sentence only."""
        base, sentence = _split_task(text)
        self.introduction, self.commands, self.feedbacks, shared = _compile(base, types)
        self._rules = dict(shared)
        if sentence is not None:
            self._rules["task"] = (Rule((), _Compiler(types).symbols(sentence)),)

    def render(self, template: Template, context: Context) -> str:
        """Return the text of a template."""
        return template.render(context._replace(variables={**context.variables, _RULES: self._rules}))


_RULES = "__rules__"
"""Variables carry the rules under this name, so that compiled symbols can be shared between games."""

_TASK = re.compile(r'"task"\s*:\s*\[\s*\{\s*"rhs"\s*:\s*("(?:[^"\\]|\\.)*")\s*\}\s*\]')


def _split_task(text: str) -> tuple[str, str | None]:
    """Cut the task sentence out of a grammar: (grammar that is equal in all games, sentence)."""
    found = list(_TASK.finditer(text))
    if len(found) != 1:
        return text, None
    start, end = found[0].span(1)
    return text[:start] + '"-"' + text[end:], str(json.loads(text[start:end]))


@functools.lru_cache(maxsize=16)
def _compile(
    text: str, types: Types
) -> tuple[Template, dict[str, Template], dict[str, Template], dict[str, tuple[Rule, ...]]]:
    from textworld.envs.pddl import logic

    actions, grammar = logic._parse_and_convert(text, rule_name="pddlStart")
    compiler = _Compiler(types)
    rules = {
        name: tuple(Rule(compiler.query(rule.condition), compiler.convert(rule.rhs)) for rule in productions)
        for name, productions in grammar._rules.items()
    }
    commands = {name: compiler.template(action.template) for name, action in actions.items()}
    feedbacks = {name: compiler.template(action.feedback_rule) for name, action in actions.items()}
    return compiler.template("#intro#"), commands, feedbacks, rules


class _Compiler:
    """Turns TextWorld's parsed symbols into functions."""

    def __init__(self, types: Types) -> None:
        from textworld.logic import Type, TypeHierarchy

        self._hierarchy = TypeHierarchy()
        for name, supertypes in types:
            # fast-downward lists its own root "object" and the domain's: TextWorld keeps the first.
            if name not in self._hierarchy._types:
                self._hierarchy.add(Type(name, supertypes))
        self._queried: set[str] = set()

    def template(self, text: str) -> Template:
        """Compile a text with symbols."""
        self._queried = set()
        return Template(self.symbols(text), frozenset(self._queried))

    def symbols(self, text: str) -> tuple[Symbol, ...]:
        """Parse and compile a right-hand side."""
        from textworld.envs.pddl import textgen

        return self.convert(textgen._parse_and_convert(text, rule_name="symbols"))

    def convert(self, parsed: list[Any]) -> tuple[Symbol, ...]:
        """Compile parsed symbols."""
        return tuple(self._symbol(symbol) for symbol in parsed)

    def query(self, text: str) -> tuple[Condition, ...]:
        """Compile a conjunctive query; an empty text is the query that always holds."""
        from textworld.logic import Rule as ParsedRule

        if not text:
            return ()
        return tuple(
            self._condition(predicate) for predicate in ParsedRule.parse_conjunctive_query(text).preconditions
        )

    def _condition(self, predicate: Any) -> Condition:
        self._queried.add(predicate.name)
        types = [self._hierarchy.get(name) for name in predicate.signature.types]
        subtypes = self._hierarchy.multi_subtypes(types)
        signatures = dict.fromkeys((predicate.name, tuple(t.name for t in group)) for group in subtypes)
        return Condition(tuple(signatures), tuple((p.name, p.type) for p in predicate.parameters))

    def _symbol(self, symbol: Any) -> Symbol:
        kind = type(symbol).__name__
        if kind == "TerminalSymbol":
            return _terminal(str(symbol.symbol))
        if kind == "NonterminalSymbol":
            return _nonterminal(str(symbol.symbol))
        if kind == "EvalSymbol":
            return _expression(symbol.expression)
        if kind == "ListSymbol":
            return _listing(self._symbol(symbol.symbol))
        if kind == "ConditionalSymbol":
            return _conditional(self._symbol(symbol.expression), self.query((symbol.given or "").strip()))
        raise EnvironmentFault(
            f"alfworld grammar: unknown symbol {symbol!r} of kind {kind}; known are Terminal, Nonterminal, Eval, List "
            "and Conditional symbols (textworld 1.7.0). Install textworld==1.7.0."
        )


def _terminal(text: str) -> Symbol:
    return lambda _: [text]


def _expression(source: str) -> Symbol:
    code = compile(source.strip(), "<grammar>", "eval")
    return lambda context: [str(eval(code, {}, context.variables))]  # noqa: S307 (the grammar language is Python)


def _nonterminal(name: str) -> Symbol:
    def derive(context: Context) -> list[str]:
        for rule in context.variables[_RULES].get(name, ()):
            if next(matches(rule.condition, context.bound, context.facts), None) is not None:
                return [_text(rule.symbols, context)]
        raise EnvironmentFault(f"alfworld grammar: no applicable rule #{name}#; add one to the game's grammar.")

    return derive


def _conditional(inner: Symbol, query: tuple[Condition, ...]) -> Symbol:
    if not query:
        return inner

    def derive(context: Context) -> list[str]:
        pieces: list[str] = []
        for bound in matches(query, context.bound, context.facts):
            variables = context.variables | {name: context.entities[value] for (name, _), value in bound.items()}
            pieces += inner(context._replace(bound=bound, variables=variables))
        return pieces

    return derive


def _listing(inner: Symbol) -> Symbol:
    empty, separator, last = (_nonterminal(name) for name in ("list_empty", "list_separator", "list_last_separator"))

    def derive(context: Context) -> list[str]:
        pieces = inner(context)
        if not pieces:
            return empty(context)
        if len(pieces) == 1:
            return pieces
        return [separator(context)[0].join(pieces[:-1]), last(context)[0], pieces[-1]]

    return derive
