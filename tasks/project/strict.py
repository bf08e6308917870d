"""Strict reading of plain values (from YAML) into frozen dataclasses: nothing unknown, missing, mistyped or out of range.

The allowed values stand in the annotations: `Literal["a", "b"]`, `Annotated[int, Range(at_least=1)]`, `int | None`.
"""

from __future__ import annotations

import dataclasses
import math
import types
import typing
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, Literal, TypeVar, Union, cast

from qlass.errors import SettingsError

S = TypeVar("S")

MAY_BE_EMPTY = "that may be empty"
"""Marks a list that needs no entry: `Annotated[tuple[int, ...], MAY_BE_EMPTY]`."""


@dataclass(frozen=True, slots=True)
class Range:
    """Allowed numbers: at_least <= x, above < x, x <= at_most, x < below; None does not limit."""

    at_least: float | None = None
    above: float | None = None
    at_most: float | None = None
    below: float | None = None

    def __contains__(self, value: float) -> bool:
        """Say whether the number is allowed; NaN and infinities never are."""
        return (
            math.isfinite(value)
            and (self.at_least is None or value >= self.at_least)
            and (self.above is None or value > self.above)
            and (self.at_most is None or value <= self.at_most)
            and (self.below is None or value < self.below)
        )

    def __str__(self) -> str:
        """Describe the range, for messages."""
        limits = [(">=", self.at_least), (">", self.above), ("<=", self.at_most), ("<", self.below)]
        return " and ".join(f"{sign} {limit:g}" for sign, limit in limits if limit is not None)


class _Wrong(Exception):
    """A value does not fit; carries key, found value and what is allowed until the file's name is known."""

    def __init__(self, key: str, found: str, allowed: str, advice: str = "change it") -> None:
        super().__init__(f"{key}: found {found}; allowed: {allowed}; {advice}")


def read(kind: type[S], value: Any, file: str, key: str = "") -> S:
    """Return `value` as a `kind`.

    Raises:
        SettingsError: names the file, the dotted key, the value found, the allowed ones and what to do.
    """
    try:
        return cast("S", _read(kind, value, key))
    except _Wrong as error:
        raise SettingsError(f"{file}: {error}") from None


def _read(kind: Any, value: Any, key: str) -> Any:
    """Convert one value, recursively."""
    origin = typing.get_origin(kind)
    if dataclasses.is_dataclass(kind):
        return _read_dataclass(kind, value, key)
    if origin is Annotated:
        inner, limits = typing.get_args(kind)
        if limits == MAY_BE_EMPTY:
            return _read_tuple(inner, value, key, may_be_empty=True)
        return _read_limited(inner, limits, value, key)
    if origin is Literal:
        if not any(value == option and type(value) is type(option) for option in typing.get_args(kind)):
            raise _Wrong(key, _show(value), describe(kind))
        return value
    if origin in (Union, types.UnionType):
        return _read_union(kind, value, key)
    if origin is tuple:
        return _read_tuple(kind, value, key)
    if origin is dict:
        if not isinstance(value, dict) or not all(isinstance(name, str) for name in value):
            raise _Wrong(key, _show(value), "a mapping with text as keys")
        return {name: _read(typing.get_args(kind)[1], entry, f"{key}.{name}") for name, entry in value.items()}
    if kind is Any:
        return value
    if type(value) is not kind:
        raise _Wrong(key, _show(value), describe(kind))
    return value


def _read_dataclass(kind: Any, value: Any, key: str) -> Any:
    """Convert a mapping with exactly the fields of a dataclass."""
    names = [field.name for field in dataclasses.fields(kind)]
    if not isinstance(value, Mapping):
        raise _Wrong(key or "(top level)", _show(value), f"a mapping with the keys {', '.join(names)}")
    here = f"{key}." if key else ""
    for name in value:
        if name not in names:
            raise _Wrong(f"{here}{name}", "an unknown key", ", ".join(names), "correct or remove it")
    hints = typing.get_type_hints(kind, include_extras=True)
    for name in names:
        if name not in value:
            raise _Wrong(f"{here}{name}", "nothing, the key is missing", describe(hints[name]), "add it")
    return kind(**{name: _read(hints[name], value[name], f"{here}{name}") for name in names})


def _read_limited(inner: Any, limits: Range, value: Any, key: str) -> Any:
    """Convert a number and check its range."""
    allowed = describe(Annotated[inner, limits])
    if type(value) is not inner and not (inner is float and type(value) is int):
        raise _Wrong(key, _show(value), allowed)
    if value not in limits:
        raise _Wrong(key, _show(value), allowed)
    return inner(value)


def _read_union(kind: Any, value: Any, key: str) -> Any:
    """Convert `X | None`, the only union that settings have."""
    (inner,) = [option for option in typing.get_args(kind) if option is not types.NoneType]
    if value is None:
        return None
    try:
        return _read(inner, value, key)
    except _Wrong as error:
        if dataclasses.is_dataclass(inner):
            raise
        raise _Wrong(key, _show(value), describe(kind)) from error


def _read_tuple(kind: Any, value: Any, key: str, *, may_be_empty: bool = False) -> Any:
    """Convert a list without repetitions and, unless it may be empty, with at least one entry."""
    inner = typing.get_args(kind)[0]
    if not isinstance(value, list) or not (value or may_be_empty):
        length = "" if may_be_empty else " with at least one entry"
        raise _Wrong(key, _show(value), f"a list{length}, each {describe(inner)}")
    entries = tuple(_read(inner, entry, f"{key}[{number}]") for number, entry in enumerate(value))
    if len(set(entries)) != len(entries):
        raise _Wrong(key, _show(value), "a list that names each entry once")
    return entries


def describe(kind: Any) -> str:
    """Return the allowed values of an annotation in words."""
    origin = typing.get_origin(kind)
    if origin is Annotated:
        return f"{describe(typing.get_args(kind)[0])} {typing.get_args(kind)[1]}"
    if origin is Literal:
        return " | ".join(str(option) for option in typing.get_args(kind))
    if origin in (Union, types.UnionType):
        return " or ".join(describe(option) for option in typing.get_args(kind))
    if dataclasses.is_dataclass(kind):
        return f"a mapping with the keys {', '.join(field.name for field in dataclasses.fields(kind))}"
    words = {int: "a whole number", float: "a number", str: "text", bool: "true or false", types.NoneType: "null"}
    return words.get(kind, "a list" if origin is tuple else "a mapping")


def _show(value: Any) -> str:
    """Return a value as the user may recognise it."""
    words = {bool: "true or false", int: "a whole number", float: "a number", str: "text"}
    return "null" if value is None else f"{value!r} ({words.get(type(value), type(value).__name__)})"
