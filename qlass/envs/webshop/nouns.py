"""Nouns of a title, which the type reward compares: an exact lexicon, spaCy, or a rule. A result says which.

WebShop asks a spaCy model; its models are not on PyPI. *Differs from WebShop:* where none is installed, a rule takes the
model's place; the generated catalogue brings the words that are nouns there.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Collection
from dataclasses import dataclass
from functools import lru_cache
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from qlass.errors import SettingsError

SPACY_MODELS = ("en_core_web_lg", "en_core_web_sm")
"""Models to look for: the one of setup.sh, which ETO and QLASS use, then the one of WebShop's latest code."""
NOUN_TAGS = frozenset({"NOUN", "PROPN"})
KINDS = ("spacy", "rule")
"""Extractors that can be asked for by name."""

_WORDS = re.compile(r"\w+(?:[-'’]\w+)*")
_CACHED = 4096
"""Titles whose nouns are remembered."""
_NO_NOUN_TEXT = (
    "a about all an and any are as at be best black blue both brown by can classic clear cute dark dry each easy "
    "extra fit for fresh from full funny gold gray great green grey heavy high hot in into is it its large light "
    "long low medium mini modern multi natural new non of off on one or orange our out outdoor over own perfect "
    "pink plus portable purple quick red round set short silver single slim small soft solid super tall that the "
    "their these this three to top two ultra under up use vintage warm white wide with without yellow you your"
)
_NO_NOUN = frozenset(_NO_NOUN_TEXT.split())
_ADJECTIVE = re.compile(r".{3,}(?:able|ible|ful|less|ous|ive)$")


@dataclass(frozen=True, slots=True)
class Nouns:
    """An extractor.

    Attributes:
        kind: what it is, for results: "lexicon", "rule", or "spacy" with the model's name and version.
        of: returns the nouns of a title, lower case, in order, repeated ones too.
    """

    kind: str
    of: Callable[[str], tuple[str, ...]]


def lexicon(words: Collection[str]) -> Nouns:
    """Return an extractor that knows all nouns.

    Args:
        words: the nouns, lower case.
    """
    known = frozenset(words)
    return Nouns("lexicon", _cached(lambda title: tuple(word for word in _words(title) if word in known)))


def rule() -> Nouns:
    """Return an extractor that takes each word with a letter, but for stop words and what looks like an adjective."""
    return Nouns("rule", _cached(lambda title: tuple(filter(_may_be_noun, _words(title)))))


def spacy_model() -> str | None:
    """Return the name of an installed spaCy model, None where there is none."""
    if find_spec("spacy") is None:
        return None
    return next((name for name in SPACY_MODELS if find_spec(name) is not None), None)


def extractor(kind: str | None = None) -> Nouns:
    """Return spaCy's extractor where a model is installed, else the rule.

    Args:
        kind: "spacy" or "rule" to have that one; None: the best that there is.

    Raises:
        SettingsError: there is no such kind, or no spaCy model.
    """
    if kind is not None and kind not in KINDS:
        raise SettingsError(f"webshop options: nouns is {kind!r}; allowed are null, {', '.join(KINDS)}")
    model = spacy_model() if kind != "rule" else None
    if model is not None:
        return _spacy(model)
    if kind == "spacy":
        raise SettingsError(
            f"webshop options: nouns is 'spacy', but none of {', '.join(SPACY_MODELS)} is installed; install spacy and "
            "one of them, or set nouns to null"
        )
    return rule()


def _spacy(model: str) -> Nouns:
    language: Any = import_module("spacy").load(model)

    def find(title: str) -> tuple[str, ...]:
        return tuple(token.text.lower() for token in language(title) if token.pos_ in NOUN_TAGS)

    return Nouns(f"spacy {model} {language.meta['version']}", _cached(find))


def _cached(find: Callable[[str], tuple[str, ...]]) -> Callable[[str], tuple[str, ...]]:
    return lru_cache(maxsize=_CACHED)(find)


def _words(title: str) -> list[str]:
    return _WORDS.findall(title.lower())


def _may_be_noun(word: str) -> bool:
    return any(map(str.isalpha, word)) and word not in _NO_NOUN and not _ADJECTIVE.match(word)
