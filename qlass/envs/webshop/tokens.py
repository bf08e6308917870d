"""The words that the search compares: Lucene's English analyzer, as Anserini uses it.

StandardTokenizer (word breaks of Unicode's UAX #29, emoji are words), no possessive "'s", lower case, no stop words,
Porter's stems. Written from Lucene 9's documentation and UAX #29; the ranking of Lucene's own index is the test.

*Differs from Lucene:* classes of characters come from Python's `unicodedata` and a few ranges, so that rare scripts may
be cut elsewhere.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable, Iterator
from functools import cache, lru_cache
from importlib import import_module

from qlass.errors import DependencyNotInstalled

_STOP_TEXT = (
    "a an and are as at be but by for if in into is it no not of on or such that the their then there these they this to "
    "was will with"
)
STOP_WORDS = frozenset(_STOP_TEXT.split())
"""Lucene's EnglishAnalyzer.ENGLISH_STOP_WORDS_SET."""
MAX_LENGTH = 255
"""Characters of a word; what is longer is cut into pieces."""

_REMEMBERED = 1 << 16
"""Words whose term is remembered."""
_POSSESSIVE = re.compile("['\u2019\uff07][sS]$")
_CODES = {
    "m": ":\u00b7\u0387\u055f\u05f4\u2027\ufe13\ufe55\uff1a",  # between letters
    "n": ",;\u037e\u0589\u060c\u060d\u066c\u07f8\u2044\ufe10\ufe14\ufe50\ufe54\uff0c\uff1b",  # between digits
    "b": ".'\u2018\u2019\u2024\ufe52\uff07\uff0e",  # between either
    "Z": "\u200d",
}
_CODE_OF = {char: code for code, chars in _CODES.items() for char in chars}
_RANGES = (
    ("I", 0x2E80, 0x2FD5), ("I", 0x3005, 0x3005), ("I", 0x3007, 0x3007), ("I", 0x3021, 0x3029), ("I", 0x3400, 0x4DBF),
    ("I", 0x4E00, 0x9FFF), ("I", 0xF900, 0xFAFF), ("I", 0x20000, 0x3FFFD),
    ("H", 0x3041, 0x3096), ("H", 0x309D, 0x309F),
    ("K", 0x3031, 0x3035), ("K", 0x309B, 0x309C), ("K", 0x30A0, 0x30FA), ("K", 0x30FC, 0x30FF), ("K", 0x31F0, 0x31FF),
    ("K", 0xFF66, 0xFF9D),
    ("S", 0x0E01, 0x0E3A), ("S", 0x0E40, 0x0E4E), ("S", 0x0E81, 0x0ECD), ("S", 0x1000, 0x103F), ("S", 0x1780, 0x17D3),
    ("R", 0x1F1E6, 0x1F1FF), ("E", 0xFF9E, 0xFF9F), ("E", 0x1F3FB, 0x1F3FF),
)  # fmt: skip
"""Ideographs and hiragana are words by themselves, katakana and the scripts of Southeast Asia in rows; regional
indicators make a flag in pairs; sound marks and skin tones go with what is before them."""
_CATEGORIES = {"Nd": "N", "Nl": "L", "Pc": "X", "Mn": "E", "Mc": "E", "Me": "E", "Cf": "E"}
_PICTURES = (
    (0xA9, 0xA9), (0xAE, 0xAE), (0x203C, 0x203C), (0x2049, 0x2049), (0x2122, 0x2122), (0x2194, 0x2199), (0x21A9, 0x21AA),
    (0x231A, 0x231B), (0x2328, 0x2328), (0x23CF, 0x23CF), (0x23E9, 0x23F3), (0x23F8, 0x23FA), (0x25AA, 0x25AB),
    (0x25B6, 0x25B6), (0x25C0, 0x25C0), (0x25FB, 0x25FE), (0x2600, 0x2605), (0x2607, 0x2612), (0x2614, 0x2685),
    (0x2690, 0x2705), (0x2708, 0x2712), (0x2714, 0x2714), (0x2716, 0x2716), (0x271D, 0x271D), (0x2721, 0x2721),
    (0x2728, 0x2728), (0x2733, 0x2734), (0x2744, 0x2744), (0x2747, 0x2747), (0x274C, 0x274C), (0x274E, 0x274E),
    (0x2753, 0x2755), (0x2757, 0x2757), (0x2763, 0x2767), (0x2795, 0x2797), (0x27A1, 0x27A1), (0x27B0, 0x27B0),
    (0x27BF, 0x27BF), (0x2934, 0x2935), (0x2B05, 0x2B07), (0x2B1B, 0x2B1C), (0x2B50, 0x2B50), (0x2B55, 0x2B55),
    (0x3030, 0x3030), (0x303D, 0x303D), (0x3297, 0x3297), (0x3299, 0x3299),
    (0x1F000, 0x1F1E5), (0x1F201, 0x1F20F), (0x1F21A, 0x1F21A), (0x1F22F, 0x1F22F), (0x1F232, 0x1F23A),
    (0x1F249, 0x1F3FA), (0x1F400, 0x1F53D), (0x1F546, 0x1F64F), (0x1F680, 0x1F6FF), (0x1F774, 0x1F77F),
    (0x1F7D5, 0x1F7FF), (0x1F90C, 0x1F93A), (0x1F93C, 0x1F945), (0x1F947, 0x1FFFD),
)  # fmt: skip
"""Extended_Pictographic of Unicode's emoji-data.txt: each is a word of its own, signs such as \u00ae too."""

# What stands for a word in the codes of a text: letters and digits, or katakana, in rows that underscores may join; a
# sign of a script without spaces; an emoji. E (marks) and Z (joiner) go with what is before them.
_LETTERS = r"(?:L[EZ]*)+(?:[mb][EZ]*(?:L[EZ]*)+)*"
_DIGITS = r"(?:N[EZ]*)+(?:[nb][EZ]*(?:N[EZ]*)+)*"
_ROW = rf"(?:(?:{_LETTERS}|{_DIGITS})+|(?:K[EZ]*)+)"
_WORD = re.compile(rf"X*{_ROW}(?:X+{_ROW})*X*|R[EZ]*R[EZ]*|PE*(?:ZPE*)*Z?|S[SE]*|[IH][EZ]*")
# The same for text in ASCII, where it is four times as fast as by codes.
_ASCII_WORD = re.compile(r"_*(?:(?:[A-Za-z]+(?:[:.'][A-Za-z]+)*|[0-9]+(?:[,;.'][0-9]+)*)+_*)+")


def tokens(text: str) -> list[str]:
    """Return the terms of a text, in order.

    Raises:
        DependencyNotInstalled: snowballstemmer is missing.
    """
    return [term for word in words(text) if (term := _term(word))]


def words(text: str) -> Iterator[str]:
    """Yield the words of a text as they stand there."""
    if text.isascii():
        found: Iterator[str] = (match.group() for match in _ASCII_WORD.finditer(text))
    else:
        codes = "".join(map(_code, text))
        found = (text[match.start() : match.end()] for match in _WORD.finditer(codes))
    for word in found:
        for start in range(0, len(word), MAX_LENGTH):
            yield word[start : start + MAX_LENGTH]


@cache
def _code(char: str) -> str:
    """Return the class of a character that decides about word breaks; "." is the class of all that separate words."""
    if char in _CODE_OF:
        return _CODE_OF[char]
    point = ord(char)
    for code, first, last in _RANGES:
        if first <= point <= last:
            return code
    if any(first <= point <= last for first, last in _PICTURES):
        return "P"
    category = unicodedata.category(char)
    return "L" if category[0] == "L" else _CATEGORIES.get(category, ".")


@lru_cache(maxsize=_REMEMBERED)
def _term(word: str) -> str:
    """Return the term of a word, empty where the search does not know it."""
    word = _POSSESSIVE.sub("", word).lower()
    return "" if word in STOP_WORDS else stem(word)


def stem(word: str) -> str:
    """Return Porter's stem of a word in lower case, as Lucene's PorterStemFilter finds it.

    Porter's own program, which Lucene follows, departs from his paper, which Snowball follows: "-bli" becomes "-ble"
    and "-logi" "-log", words of one or two letters stay, and every doubled consonant before "-ed" and "-ing" is undone.

    Raises:
        DependencyNotInstalled: snowballstemmer is missing.
    """
    if len(word) < 3:
        return word
    if match := _BLY.match(word):
        word = f"{match['start']}ble"
    elif match := _LOGY.match(word):
        word = f"{match['start']}log"
    stemmed = _stemmer()(word)
    if word.endswith(("ed", "ing")) and _DOUBLED.search(stemmed):
        return stemmed[:-1]
    return stemmed


# A vowel and a consonant before the ending (Porter's m > 0).
_BLY = re.compile(r"(?P<start>.*?[aeiouy][^aeiou].*?)bl(?:y|ies)$")
_LOGY = re.compile(r"(?P<start>.*?[aeiouy][^aeiou].*?)log(?:y|ies)$")
_DOUBLED = re.compile(r"([chjkqvwx])\1$")


@cache
def _stemmer() -> Callable[[str], str]:
    try:
        library = import_module("snowballstemmer")
    except ImportError:
        raise DependencyNotInstalled(
            "webshop: the package snowballstemmer, which the search needs, is not installed; run pip install "
            "'qlass[webshop]'"
        ) from None
    stemmer: Callable[[str], str] = library.stemmer("porter").stemWord
    return stemmer
