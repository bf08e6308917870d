"""Lists of ids, titles and prices that are made up: to repeat, to query and to compare. No shop is needed for them."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import NamedTuple

from pretrain.conversations import made_up_word
from pretrain.shop.world import dollars

_ALPHABET = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"


class Entry(NamedTuple):
    """A line of a list: an id, some words, and a price in dollars."""

    asin: str
    title: str
    price: float


def made_up_id(rng: random.Random) -> str:
    """Return ten characters in the form of an id."""
    return "B0" + "".join(rng.choices(_ALPHABET, k=8))


def recall_conversation(words: Sequence[str], rng: random.Random) -> list[tuple[str, str]]:
    """Make up a list and ask about it in several ways.

    Args:
        words: what titles are made of; one in eight is made up instead.
        rng: of all draws.
    """
    entries = [_entry(words, rng) for _ in range(rng.randint(2, 10))]
    text = " [SEP] ".join(f"{entry.asin} [SEP] {entry.title} [SEP] ${entry.price}" for entry in entries)
    messages = [("user", text)]
    for _ in range(rng.randint(4, 9)):
        question, answer = _question(entries, text, rng)
        messages += [("user", question), ("assistant", answer)]
    return messages


def _entry(words: Sequence[str], rng: random.Random) -> Entry:
    title = [made_up_word(rng) if rng.random() < 0.12 else rng.choice(words) for _ in range(rng.randint(1, 6))]
    whole = round(1.2 + 300 ** rng.uniform(0.2, 1.0))
    return Entry(made_up_id(rng), " ".join(title), whole + rng.choice((0.99, 0.49, 0.0)))


def _question(entries: Sequence[Entry], text: str, rng: random.Random) -> tuple[str, str]:
    place = rng.randrange(len(entries))
    entry = entries[place]
    cap = 10.0 * max(1, round(entry.price / 10) + rng.randint(-3, 3))
    match rng.randint(0, 7):
        case 0:
            return f"What is the title of {entry.asin}?", entry.title
        case 1:
            return f"What does {entry.asin} cost?", dollars(entry.price)
        case 2:
            return f"Which id is number {place + 1}?", entry.asin
        case 3:
            later = entries[place + 1].asin if place + 1 < len(entries) else "none"
            return f"Which id comes after {entry.asin}?", later
        case 4:
            word = "below" if entry.price < cap else "not below"
            return f"Is {entry.asin} below {dollars(cap)}?", f"{dollars(entry.price)}, {word} {dollars(cap)}"
        case 5:
            word = rng.choice(entry.title.split())
            having = [other.asin for other in entries if word in other.title.split()]
            return f"Which ids have {word} in the title?", ", ".join(having)
        case 6:
            below = [other.asin for other in entries if other.price < cap]
            return f"Which ids are below {dollars(cap)}?", ", ".join(below) or "none"
        case _:
            return "Repeat.", text
