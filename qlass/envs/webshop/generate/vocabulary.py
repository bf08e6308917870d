"""The words of the generated catalogue, read from the TOML files in `words/`; what their keys mean stands there.

The lexicon is closed: titles contain nothing else, and `nouns.txt` says of each of their words whether it is a noun.
"""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Any, Literal, TypeAlias

CATEGORIES = ("beauty", "electronics", "fashion", "garden", "grocery")
"""Upstream's five, in its order; each has a file of words."""

Kind: TypeAlias = Literal["is", "has", "for", "of"]

_ARTICLES = ("a ", "an ", "the ")


@dataclass(frozen=True, slots=True)
class Attribute:
    """A property of products.

    Attributes:
        key: the phrase of two words that the data files list.
        kind: how it stands in a sentence: is, has, for or of.
        text: how products word it.
        asks: further wordings of customers, each standing after the thing.
    """

    key: str
    kind: Kind
    text: str
    asks: tuple[str, ...]

    @property
    def bare(self) -> str:
        """Return the text without article, as titles have it."""
        return without_article(self.text)

    @property
    def leads(self) -> bool:
        """Return whether the text can stand before the thing."""
        return self.kind in ("is", "of") and self.text == self.key

    def behind(self) -> tuple[str, ...]:
        """Return the wordings of customers that stand after the thing."""
        word = {"is": "that is", "has": "with", "for": "for", "of": "made of"}[self.kind]
        return (f"{word} {self.text}", *self.asks)


@dataclass(frozen=True, slots=True)
class OptionGroup:
    """A group of options that a product type can have: its name, and every value that products may offer."""

    name: str
    values: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class ProductType:
    """A kind of product.

    Attributes:
        label: upstream's query label.
        category: one of CATEGORIES.
        path: upstream's product_category, with its separator.
        noun: how customers call it, with its article where it takes one.
        heads: what its titles call it; the first and the last word differ, a noun is shared.
        adjectives: for titles.
        fillers: noun phrases for the end of titles.
        price: lowest and highest usual price in dollars.
        options: groups that products may have.
        attributes: what products can have.
        unseen: it belongs to test_unseen.
    """

    label: str
    category: str
    path: str
    noun: str
    heads: tuple[str, ...]
    adjectives: tuple[str, ...]
    fillers: tuple[str, ...]
    price: tuple[float, float]
    options: tuple[OptionGroup, ...]
    attributes: tuple[Attribute, ...]
    unseen: bool

    @property
    def thing(self) -> str:
        """Return the noun without its article."""
        return without_article(self.noun)


@dataclass(frozen=True, slots=True)
class Asks:
    """How customers ask for an option: inside the first sentence, and in a sentence of its own; with `{value}`."""

    lead: tuple[str, ...]
    own: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """All words.

    Attributes:
        types: product types, categories in order.
        attributes: by key.
        bullets: sentences that state nothing that is asked for, by category; with `{thing}`.
        sentences: the same for descriptions.
        clauses: sentences that state an attribute, by its kind; with `{thing}` and `{text}`.
        asks: how customers ask for an option, by the name of its group.
        frames: how they begin; with `{thing}`.
        empty: words of theirs that say nothing about the product.
        brands: beginnings and ends of brand names.
    """

    types: tuple[ProductType, ...]
    attributes: Mapping[str, Attribute]
    bullets: Mapping[str, tuple[str, ...]]
    sentences: Mapping[str, tuple[str, ...]]
    clauses: Mapping[str, tuple[str, ...]]
    asks: Mapping[str, Asks]
    frames: tuple[str, ...]
    empty: frozenset[str]
    brands: tuple[tuple[str, ...], tuple[str, ...]]


def without_article(text: str) -> str:
    """Return a noun phrase without its article."""
    for article in _ARTICLES:
        if text.startswith(article):
            return text.removeprefix(article)
    return text


@cache
def nouns() -> frozenset[str]:
    """Return every word of the titles that is a noun or a name, in lower case."""
    first, last = vocabulary().brands
    brands = {f"{begin}{end}".lower() for begin in first for end in last}
    return frozenset(brands | set(_word_lists()[0]))


@cache
def other_words() -> frozenset[str]:
    """Return every other word of the titles, in lower case."""
    return frozenset(_word_lists()[1])


def _word_lists() -> tuple[list[str], list[str]]:
    """Return the two parts of nouns.txt, which an empty line separates."""
    found, others = (files(__package__) / "words" / "nouns.txt").read_text(encoding="ascii").split("\n\n")
    return found.split(), others.split()


@cache
def vocabulary() -> Vocabulary:
    """Return all words, read once."""
    common = _read("common")
    shared = _attributes(common["attributes"])
    pools = {name: tuple(values) for name, values in common["pools"].items()}
    files_of_words = {name: _read(name) for name in CATEGORIES}
    types: list[ProductType] = []
    attributes: dict[str, Attribute] = {}
    for category, content in files_of_words.items():
        groups = shared | _attributes(content["attributes"])
        attributes |= {attribute.key: attribute for group in groups.values() for attribute in group}
        types += [_product_type(category, content["path"], entry, groups, pools) for entry in content["types"]]
    return Vocabulary(
        types=tuple(types),
        attributes=attributes,
        bullets={name: tuple(content["bullets"]) for name, content in files_of_words.items()},
        sentences={name: tuple(content["sentences"]) for name, content in files_of_words.items()},
        clauses={kind: tuple(clauses) for kind, clauses in common["clauses"].items()},
        asks={name: Asks(tuple(ask["lead"]), tuple(ask["own"])) for name, ask in common["options"].items()},
        frames=tuple(common["frames"]["open"]),
        empty=frozenset(common["frames"]["empty"]),
        brands=(tuple(common["brands"]["first"]), tuple(common["brands"]["last"])),
    )


def _read(name: str) -> dict[str, Any]:
    return tomllib.loads((files(__package__) / "words" / f"{name}.toml").read_text(encoding="ascii"))


def _attributes(groups: Mapping[str, Any]) -> dict[str, tuple[Attribute, ...]]:
    return {
        name: tuple(
            Attribute(key, entry["kind"], entry.get("text", key), tuple(entry["asks"])) for key, entry in group.items()
        )
        for name, group in groups.items()
    }


def _product_type(
    category: str,
    path: str,
    entry: Mapping[str, Any],
    groups: Mapping[str, tuple[Attribute, ...]],
    pools: Mapping[str, tuple[str, ...]],
) -> ProductType:
    return ProductType(
        label=entry["label"],
        category=category,
        path=f"{path} > {entry['path']}".replace(">", "\N{SINGLE RIGHT-POINTING ANGLE QUOTATION MARK}"),
        noun=entry["noun"],
        heads=tuple(entry["heads"]),
        adjectives=tuple(entry["adjectives"]),
        fillers=tuple(entry["fillers"]),
        price=(entry["price"][0], entry["price"][1]),
        options=tuple(OptionGroup(name, pools[pool]) for name, pool in entry["options"].items()),
        attributes=tuple(attribute for group in entry["attributes"] for attribute in groups[group]),
        unseen=entry.get("unseen", False),
    )
