"""What pydantic finds wrong with a value, in plain words: where, what was found, what was expected.

pydantic's own messages speak of its classes and of the one limit that was broken. Ours name the place as a user would
write it and everything that is allowed there, which stands in the JSON schema of the type.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Literal, NamedTuple, TypeAlias

from pydantic import TypeAdapter, ValidationError
from pydantic_core import ErrorDetails

Kind: TypeAlias = Literal["missing", "unknown", "wrong"]
Schema: TypeAlias = Mapping[str, Any]

_UNKNOWN = ("extra_forbidden", "unexpected_keyword_argument", "invalid_key")
"""pydantic's types of an unknown field: of a model, of a dataclass, and one whose name is no text."""
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
        place = f"{self.where}: " if self.where else ""
        return f"{place}{fault}, expected {self.expected}"


def problems(error: ValidationError, adapter: TypeAdapter[Any]) -> list[Problem]:
    """Return what is wrong with a value, in the order of the declaration and once per place.

    A validator written in Python says itself what it expects: `raise ValueError("a list that names each entry once")`.

    Args:
        error: what `adapter` raised, or a model that `TypeAdapter(model)` describes. That a text is no JSON at all
            is no problem of a value: ask for the type `json_invalid` before.
        adapter: the type that was expected.
    """
    schema = adapter.json_schema()
    found: dict[str, tuple[int, Problem]] = {}
    for detail in error.errors(include_url=False):
        length, problem = len(detail["loc"]), _problem(detail, schema)
        # The alternatives of a union each report; the shortest path is the one whose input is the value itself.
        if problem.where not in found or length < found[problem.where][0]:
            found[problem.where] = length, problem
    return [problem for _, problem in found.values()]


def in_words(node: Schema, definitions: Mapping[str, Schema]) -> str:
    """Return what a JSON schema allows, for example "a whole number >= 1 or null".

    Args:
        node: a part of a schema that pydantic made.
        definitions: its `$defs`.
    """
    node = resolved(node, definitions)
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
            return _mapping_in_words(node, definitions)
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


def unit_of(node: Schema, definitions: Mapping[str, Schema]) -> str:
    """Return the unit of a number, or of the numbers in a list or mapping; empty where the type names none.

    Args:
        node: a part of a schema that pydantic made; types name their unit with `json_schema_extra={"unit": ...}`.
        definitions: its `$defs`.
    """
    node = resolved(node, definitions)
    inner = [node[key] for key in ("items", "additionalProperties") if isinstance(node.get(key), Mapping)]
    units = [str(node.get("unit", "")), *(unit_of(one, definitions) for one in (*node.get("anyOf", ()), *inner))]
    return next(filter(None, units), "")


def resolved(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return the definition that a schema refers to, or the schema itself where it refers to none."""
    return definitions[node["$ref"].removeprefix("#/$defs/")] if "$ref" in node else node


def without_null(node: Schema, definitions: Mapping[str, Schema]) -> Schema:
    """Return X of `X | None`, and any other schema as it is."""
    node = resolved(node, definitions)
    options = [option for option in node.get("anyOf", ()) if option.get("type") != "null"]
    return resolved(options[0], definitions) if len(options) == 1 else node


def show(value: object) -> str:
    """Return a value as a user would write it, not longer than a line."""
    if value is None or isinstance(value, bool):
        return _option(value)
    text = repr(value)
    text = text if len(text) <= _SHOWN else f"{text[: _SHOWN - 3]}..."
    return f"{text} (text)" if isinstance(value, str) else text


class _Place(NamedTuple):
    """Where a path leads: its words, the schemas of the value around and of the place, and whether it was a union.

    pydantic goes on after a union with the name of an alternative, which is no place in the value: we stop there.
    """

    where: str
    around: Schema
    here: Schema
    in_union: bool


def _problem(detail: ErrorDetails, schema: Schema) -> Problem:
    """Translate one error."""
    definitions = schema.get("$defs", {})
    path, value, kind = detail["loc"], detail["input"], detail["type"]
    if path and path[-1] == "[key]":  # the key of a mapping is wrong, not its value
        path = path[:-2]
    where, around, here, in_union = _follow(schema, path, definitions)
    if kind in _UNKNOWN and not in_union:
        return Problem(where, show(value), f"one of {', '.join(around['properties'])}", "unknown")
    if kind == "missing" and not in_union:
        return Problem(where, "nothing", in_words(here, definitions), "missing")
    expected = str(detail["ctx"]["error"]) if kind == "value_error" else in_words(here, definitions)
    return Problem(where, show(value), expected, "wrong")


def _follow(schema: Schema, path: Sequence[int | str], definitions: Mapping[str, Schema]) -> _Place:
    """Follow a path of pydantic's."""
    where, around, here = "", schema, schema
    for part in path:
        inner = without_null(here, definitions)
        if "anyOf" in inner:
            return _Place(where, around, here, in_union=True)
        around = inner
        if inner.get("type") == "array":
            where, here = f"{where}[{part}]", _entry(inner, int(part))
        else:
            where = f"{where}.{part}" if where else str(part)
            here = inner.get("properties", {}).get(part, inner.get("additionalProperties"))
    return _Place(where, around, here, in_union=False)


def _entry(node: Schema, index: int) -> Schema:
    """Return the schema of one entry of a list."""
    fixed: Sequence[Schema] = node.get("prefixItems", ())
    entry: Schema = fixed[index] if index < len(fixed) else node["items"]
    return entry


def _mapping_in_words(node: Schema, definitions: Mapping[str, Schema]) -> str:
    """Describe a mapping whose keys are free."""
    values = node.get("additionalProperties")
    words = f", each value {in_words(values, definitions)}" if isinstance(values, Mapping) else ""
    return f"a mapping with text as keys{words}"


def _list_in_words(node: Schema, definitions: Mapping[str, Schema]) -> str:
    """Describe a list."""
    if "prefixItems" in node:
        return f"a list of {len(node['prefixItems'])} values"
    length = " with at least one entry" if node.get("minItems", 0) == 1 else ""
    return f"a list{length}, each {in_words(node['items'], definitions)}"


def _option(value: object) -> str:
    """Return one allowed value as it stands in JSON and YAML, text without quotes."""
    if value is None:
        return "null"
    return str(value).lower() if isinstance(value, bool) else str(value)
