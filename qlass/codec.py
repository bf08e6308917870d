"""Records to JSON values and back: frozen dataclasses, named tuples and tuples, by their type annotations.

Reading is strict, because a record that is read differently than it was written is worse than an error: no field may
be missing (also none with a default), none unknown, and `true` is not a number.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterable
from functools import cache
from itertools import repeat
from typing import Any, Literal, TypeAlias, TypeVar, get_args, get_origin, get_type_hints

R = TypeVar("R")

Decoder: TypeAlias = Callable[[Any], Any]


class Invalid(Exception):
    """A value does not fit its type; the message starts with where, for example `nodes[3].step.reward`."""

    def __init__(self, problem: str) -> None:
        """Start with the problem; enclosing values add where it is, from the inside out."""
        super().__init__(problem)
        self.problem = problem
        self.where = ""

    def inside(self, part: str) -> Invalid:
        """Return this error, seen from the enclosing value."""
        self.where = f"{part}.{self.where}" if self.where and self.where[0] != "[" else part + self.where
        return self

    def __str__(self) -> str:
        """Say where and what."""
        return f"{self.where}: {self.problem}" if self.where else self.problem


def encode(record: Any) -> dict[str, Any]:
    """Return a dataclass as a dict of JSON values."""
    value: dict[str, Any] = _encode(record)
    return value


def decode(kind: type[R], value: object) -> R:
    """Return `value` as a `kind`; raise Invalid where it does not fit."""
    target: Any = kind  # mypy does not see that `type[R]` is hashable
    record: R = _decoder(target)(value)
    return record


def _encode(value: Any) -> Any:
    """Return one value for JSON; faster than `dataclasses.asdict`, which copies every leaf."""
    if dataclasses.is_dataclass(value):
        return {name: _encode(getattr(value, name)) for name in value.__dataclass_fields__}
    if isinstance(value, tuple):
        return [_encode(part) for part in value]
    return value


@cache
def _decoder(kind: Any) -> Decoder:
    """Build the reader of one type; the types of our records are few, so each is built once."""
    if kind is Any:
        return lambda value: value
    if dataclasses.is_dataclass(kind):
        return _object(kind)
    origin, arguments = get_origin(kind), get_args(kind)
    if origin is Literal:
        return _choice(arguments)
    if origin is tuple and arguments[-1] is Ellipsis:
        return _sequence(_decoder(arguments[0]))
    if origin is tuple:
        return _product(tuple, [_decoder(argument) for argument in arguments])
    if isinstance(kind, type) and issubclass(kind, tuple):
        return _product(lambda parts: kind(*parts), [_decoder(hint) for hint in get_type_hints(kind).values()])
    return _scalar(dict if origin is dict else kind)


def _object(kind: Any) -> Decoder:
    """Read a dataclass from an object with exactly its fields."""
    decoders = {name: _decoder(hint) for name, hint in get_type_hints(kind).items()}

    def read(value: Any) -> Any:
        if not isinstance(value, dict):
            raise Invalid(f"found {_show(value)}, expected an object")
        if value.keys() != decoders.keys():
            missing, unknown = sorted(decoders.keys() - value.keys()), sorted(value.keys() - decoders.keys())
            raise Invalid(f"missing fields {missing}, unknown fields {unknown}; allowed are {list(decoders)}")
        parts: dict[str, Any] = {}
        for name, decoder in decoders.items():
            try:
                parts[name] = decoder(value[name])
            except Invalid as error:
                raise error.inside(name) from None
        return kind(**parts)

    return read


def _sequence(decoder: Decoder) -> Decoder:
    """Read `tuple[X, ...]` from a list of any length."""

    def read(value: Any) -> tuple[Any, ...]:
        if not isinstance(value, list):
            raise Invalid(f"found {_show(value)}, expected a list")
        return _parts(repeat(decoder), value)

    return read


def _product(make: Callable[[tuple[Any, ...]], Any], decoders: list[Decoder]) -> Decoder:
    """Read `tuple[X, Y]` or a named tuple from a list with one value per part."""

    def read(value: Any) -> Any:
        if not isinstance(value, list) or len(value) != len(decoders):
            raise Invalid(f"found {_show(value)}, expected a list of {len(decoders)} values")
        return make(_parts(decoders, value))

    return read


def _parts(decoders: Iterable[Decoder], values: list[Any]) -> tuple[Any, ...]:
    """Read the values of a list, each with its own decoder."""
    parts = []
    for index, (decoder, value) in enumerate(zip(decoders, values, strict=False)):
        try:
            parts.append(decoder(value))
        except Invalid as error:
            raise error.inside(f"[{index}]") from None
    return tuple(parts)


def _choice(allowed: tuple[Any, ...]) -> Decoder:
    """Read one of the values of a `Literal`."""

    def read(value: Any) -> Any:
        if value not in allowed:
            raise Invalid(f"found {_show(value)}, allowed are {list(allowed)}")
        return value

    return read


def _scalar(kind: type) -> Decoder:
    """Read a plain JSON value of exactly one type; an integer is also a float."""
    if kind not in (str, int, float, bool, dict):
        raise TypeError(f"{kind!r}: records are made of str, int, float, bool, dict, tuple, Literal and dataclasses")

    def read(value: Any) -> Any:
        if kind is float and type(value) is int:
            return float(value)
        if type(value) is not kind:
            raise Invalid(f"found {_show(value)}, expected {kind.__name__}")
        return value

    return read


def _show(value: Any) -> str:
    """Return the value for a message, not longer than a line."""
    text = repr(value)
    return text if len(text) <= 60 else f"{text[:57]}..."
