"""What an instruction asks for, understood from its words alone.

A customer's phrases are known, as a reader of English knows them: "without gluten" asks for something gluten free. The
phrases and option values are those of the generated catalogue; an instruction that uses others (upstream's data) still
gives a price, options in the form `color: black`, and its words to search for.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from functools import cache

from qlass.envs.webshop.generate.vocabulary import Attribute, vocabulary

_PRICE = re.compile(r",? and price lower than ([\d.]+) dollars\.?$")
_NAMED_OPTIONS = re.compile(r" with ((?:(?!with )[a-z ])+: .+)$")
_GONE = " ; "
"""Stands where a phrase was understood, so that no other one is found across it."""


@dataclass(frozen=True, slots=True)
class Quality:
    """A property that is asked for.

    Attributes:
        name: how a thought calls it.
        wordings: texts of a product that state it, lower case; one of them suffices.
    """

    name: str
    wordings: tuple[str, ...]

    def stated_in(self, text: str) -> bool:
        """Return whether a text states it."""
        return any(wording in text.lower() for wording in self.wordings)


@dataclass(frozen=True, slots=True)
class Wish:
    """An instruction as understood.

    Attributes:
        thing: what kind of product it is, for the search and for thoughts; never empty.
        marks: words that titles of this kind have in common, lower case; empty where the kind is not known.
        qualities: properties that it must have.
        options: values to choose, lower case.
        cap: price in dollars that it must stay below; infinite where none is named.
        rest: words that were not understood; where the kind is not known, they are the thing.
    """

    thing: str
    marks: tuple[str, ...]
    qualities: tuple[Quality, ...]
    options: tuple[str, ...]
    cap: float
    rest: str

    @property
    def queries(self) -> tuple[str, ...]:
        """Return what to search for: everything first, then less."""
        short = " ".join([*(quality.name for quality in self.qualities), self.thing])
        return tuple(dict.fromkeys((" ".join([short, *self.options]), short, self.thing)))


def understand(instruction: str) -> Wish:
    """Return what an instruction asks for."""
    text = instruction.strip().lower()
    cap = float("inf")
    if found := _PRICE.search(text):
        text, cap = text[: found.start()], float(found[1])
    options: list[str] = []
    if found := _NAMED_OPTIONS.search(text):
        options += [part.partition(": ")[2] for part in found[1].split(", and ")]
        text = text[: found.start()]
    # Options first: "in white" is one, but not in "that is finished in white", where the longer phrase is known.
    qualities, text = _qualities(text)
    named, text = _options(text)
    thing, text = _thing(text)
    rest = " ".join(word for word in re.findall(r"\w[\w'.-]*", text) if word not in vocabulary().empty)
    marks = _things()[0].get(thing, ())
    return Wish(thing or rest or text, marks, qualities, (*options, *named), cap, rest)


def _qualities(text: str) -> tuple[tuple[Quality, ...], str]:
    """Return the attributes that a text names, and the text without them."""
    known, pattern = _phrases()
    found = {known[match[0]].key: known[match[0]] for match in pattern.finditer(text)}
    qualities = tuple(Quality(one.bare, tuple(dict.fromkeys((one.bare, one.key)))) for one in found.values())
    return qualities, pattern.sub(_GONE, text)


def _options(text: str) -> tuple[tuple[str, ...], str]:
    """Return the option values that a text names, in its order, and the text without them."""
    found: list[tuple[int, str]] = []
    for pattern in _option_patterns():
        for match in pattern.finditer(text):
            found.append((match.start(), match["value"]))
            text = text[: match.start()] + ";" * len(match[0]) + text[match.end() :]
    return tuple(value for _, value in sorted(found)), text


def _thing(text: str) -> tuple[str, str]:
    """Return the kind of product that a text names, empty where none is known, and the text without it."""
    pattern = _things()[1]
    found = pattern.search(text)
    return (found[0], pattern.sub(_GONE, text)) if found else ("", text)


@cache
def _phrases() -> tuple[Mapping[str, Attribute], re.Pattern[str]]:
    """Return what customers call attributes, and a pattern of all of it."""
    known = {
        phrase: attribute
        for attribute in vocabulary().attributes.values()
        for phrase in (*attribute.behind(), *attribute.asks, attribute.text, attribute.bare, attribute.key)
    }
    return known, _any_of(known)


@cache
def _option_patterns() -> tuple[re.Pattern[str], ...]:
    """Return patterns of every way to ask for an option, long ones first."""
    words = vocabulary()
    values: dict[str, set[str]] = {}
    for kind in words.types:
        for group in kind.options:
            values.setdefault(group.name, set()).update(group.values)
    asks = [(ask, name) for name, forms in words.asks.items() for ask in (*forms.own, *forms.lead)]
    asks.sort(key=lambda ask: (-len(ask[0]), ask))
    return tuple(
        re.compile(rf"\b{re.escape(before)}(?P<value>{_alternatives(values[name])}){re.escape(after)}(?![\w-])")
        for ask, name in asks
        for before, _, after in [ask.partition("{value}")]
    )


@cache
def _things() -> tuple[Mapping[str, tuple[str, ...]], re.Pattern[str]]:
    """Return the marks of every kind of product by what customers call it, and a pattern of all names."""
    marks: dict[str, tuple[str, ...]] = {}
    for kind in vocabulary().types:
        first, *others = (head.lower().split() for head in kind.heads)
        common = tuple(word for word in first if all(word in other for other in others))
        marks |= dict.fromkeys((kind.thing, kind.label), common)
    return marks, _any_of(marks)


def _any_of(phrases: Iterable[str]) -> re.Pattern[str]:
    """Return a pattern of whole phrases, the longest first."""
    return re.compile(rf"(?<![\w-])(?:{_alternatives(phrases)})(?![\w-])")


def _alternatives(phrases: Iterable[str]) -> str:
    return "|".join(map(re.escape, sorted(set(phrases), key=lambda phrase: (-len(phrase), phrase))))
