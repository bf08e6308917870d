"""What pydantic finds wrong with a value, in plain words: where, what was found, what was expected.

pydantic's own messages speak of its classes and of the one limit that was broken. Ours name the place as a user would
write it and everything that is allowed there, which stands in the JSON schema of the type.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, TypeAlias

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

Kind: TypeAlias = Literal["missing", "unknown", "wrong"]
Schema: TypeAlias = Mapping[str, Any]

_MISSING = ("missing", "missing_argument", "missing_positional_only_argument", "missing_keyword_only_argument")
_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")
_OURS = ("value_error", "assertion_error")
"""Types of the errors that a validator of ours raises."""
_WORDS = {"integer": "a whole number", "number": "a number", "string": "text", "boolean": "true or false"}
_LIMITS = {"minimum": ">=", "exclusiveMinimum": ">", "maximum": "<=", "exclusiveMaximum": "<"}
_SHOWN = 60
"""Longest value in a message (characters)."""


@dataclass(frozen=True, slots=True)
class Problem:
    """One thing that is wrong with a value.

    Attributes:
        where: the place as a dotted path with [index], for example `nodes[3].step.reward`; empty for the whole value.
        found: what is there, shortly; "nothing" where it is missing.
        expected: what is allowed there, for example "a number > 0 and <= 1"; for an unknown field, the known ones.
        kind: missing (a field that must be there is not), unknown (a field that is not declared), or wrong (a value
            that is not allowed).
    """

    where: str
    found: str
    expected: str
    kind: Kind

    def __str__(self) -> str:
        """Return one sentence without the full stop."""
        fault = f"found {self.found}" if self.kind == "wrong" else self.kind
        return (
            f"{self.where}: {fault}, expected {self.expected}" if self.where else f"{fault}, expected {self.expected}"
        )


def problems(error: ValidationError, adapter: TypeAdapter[Any]) -> list[Problem]:
    """Return what is wrong with a value, in the order of the declaration and once per place.

    A validator of ours says itself what it expects: `raise ValueError("a list that names each entry once")`.

    Args:
        error: what `adapter` raised, or a model that `TypeAdapter(model)` describes. That a text is no JSON at all
            is no problem of a value: ask for the type `json_invalid` before.
        adapter: the type that was expected.
    """
    schema = adapter.json_schema()
    found: dict[str, Problem] = {}
    # The alternatives of a union each report; the shortest path is the one whose input is the value itself.
    for detail in sorted(error.errors(include_url=False), key=lambda detail: len(detail["loc"])):
        problem = _problem(detail, schema)
        found.setdefault(problem.where, problem)
    order = dict.fromkeys(_problem(detail, schema).where for detail in error.errors(include_url=False))
    return [found[where] for where in order]


def in_words(node: Schema, definitions: Mapping[str, Schema]) -> str:
    """Return what a JSON schema allows, for example "a whole number >= 1 or null".

    Args:
        node: a part of a schema that pydantic made.
        definitions: its `$defs`.
    """
    node = _resolved(node, definitions)
    if "anyOf" in node:
        return " or ".join(in_words(option, definitions) for option in node["anyOf"])
    if "enum" in node:
        return f"one of {', '.join(map(_option, node['enum']))}"
    if "const" in node:
        return _option(node["const"])
    match node.get("type"):
        case "object" if "properties" in node:
            return f"a mapping with the keys {', '.join(node['properties'])}"
        case "object":
            return "a mapping with text as keys"
        case "array":
            return _list_in_words(node, definitions)
        case "string" if node.get("minLength") == 1:
            return "text that is not empty"
        case "null":
            return "null"
        case str(name):
            limits = [f"{sign} {node[limit]:.12g}" for limit, sign in _LIMITS.items() if limit in node]
            return " ".join([_WORDS[name], " and ".join(limits)]).rstrip()
    return "any value"


def show(value: object) -> str:
    """Return a value as a user would write it, not longer than a line."""
    if value is None or isinstance(value, bool):
        return _option(value)
    text = repr(value)
    text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return f"{text} (text)" if isinstance(value, str) else text


def _problem(detail: ErrorDetails, schema: Schema) -> Problem:
    """Translate one error."""
    definitions = schema.get("$defs", {})
    path, value, kind = detail["loc"], detail["input"], detail["type"]
    if path and path[-1] == "[key]":  # the key of a mapping is wrong, not its value
        path = path[:-2]
    where, around, here = _follow(schema, path, definitions)
    if kind in _UNKNOWN:
        return Problem(where, show(value), f"one of {', '.join(around['properties'])}", "unknown")
    if kind in _MISSING:
        return Problem(where, "nothing", in_words(here, definitions), "missing")
    expected = str(detail["ctx"]["error"]) if kind in _OURS else in_words(here, definitions)
    return Problem(where, show(value), expected, "wrong")


def _follow(
    schema: Schema, path: Iterable[int | str], definitions: Mapping[str, Schema]
) -> tuple[str, Schema, Schema]:
    """Return where a path leads: in words, the schema of the value around that place, and the schema of the place."""
    where, around, here = "", schema, schema
    for part in path:
        inner = _without_null(here, definitions)
        if "anyOf" in inner:
            break  # pydantic goes on with the name of an alternative, which is no place in the value
        around = inner
        if isinstance(part, int):
            where, here = f"{where}[{part}]", _entry(inner, part)
        else:
            where = f"{where}.{part}" if where else part
            here = inner.get("properties", {}).get(part, inner.get("additionalProperties"))
    return where, around, here


def _entry(node: Schema, index: int) -> Schema:
    """Return the schema of one entry of a list."""
    fixed: Sequence[Schema] = node.get("prefixItems", ())
    entry: Schema = fixed[index] if index < len(fixed) else node["items"]
    return entry


def _without_null(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return X of `X | None`, and any other schema as it is."""
    node = _resolved(node, definitions)
    options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    return _resolved(options[0], definitions) if len(options) == 1 else node


def _resolved(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return the definition that a schema refers to."""
    return definitions[node["$ref"].removeprefix("#/$defs/")] if "$ref" in node else node


def _list_in_words(node: Schema, definitions: Mapping[str, Schema]) -> str:
    """Describe a list."""
    if "prefixItems" in node:
        return f"a list of {len(node['prefixItems'])} values"
    length = " with at least one entry" if node.get("minItems", 0) == 1 else ""
    return f"a list{length}, each {in_words(node['items'], definitions)}"


def _option(value: object) -> str:
    """Return one allowed value as it stands in JSON and YAML, text without quotes."""
    return (
        {None: "null", True: "true", False: "false"}[value] if value is None or isinstance(value, bool) else str(value)
    )
