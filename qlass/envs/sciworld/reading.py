"""What a reader finds in the text of a task and in a list of what is around: things, what they are in, what is asked."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

_KIND = re.compile(r"Your task is to find a\(n\) (.+?)\. First")
_FOCUS = re.compile(r"[Ff]ocus on the (.+?)\.")
_BOX = re.compile(r"to the (.+? box) in the (.+?)\.")
_AROUND = re.compile(r"measure the temperature of (.+?), which is located around the (.+?)\.")
_BOXES = re.compile(r"boxes are located around the (.+?)\.")
_ANIMALS = re.compile(r"animals are in the '(.+?)' location")
_NAME = re.compile(r"(?:(?:an?|the) )?(?:substance called )?([A-Za-z0-9' -]+?)(?= in the \w+ stage|[,.]| \(|$)", re.I)
_INSIDE = re.compile(r"(?:On|In) the .+? is: (.*?)\.*$")
_CONTAINING = re.compile(r"\(containing (.*)\)")
_NOTHING = "nothing"


class Thing(NamedTuple):
    """A thing of a list.

    Attributes:
        name: without an article.
        within: name of what it is in or on; empty for the room.
        plant: whether it is one, which is seen by the stage that the list names.
        empty: whether the list says that nothing is in it.
    """

    name: str
    within: str
    plant: bool
    empty: bool


@lru_cache(maxsize=64)
def things_in(listing: str) -> tuple[Thing, ...]:
    """Return all that a list of what is around names, in its order; doors lead elsewhere and are not among them."""
    lines = [line.strip() for line in listing.splitlines() if line.startswith("\t")]
    return tuple(thing for line in lines if not line.startswith("A door to ") for thing in _read(line, ""))


def wires_in(listing: str) -> list[str]:
    """Return the names of the wires in a list."""
    return [thing.name for thing in things_in(listing) if thing.name.endswith(" wire")]


def plants_in(listing: str) -> list[str]:
    """Return the names of the plants in a list."""
    return [thing.name for thing in things_in(listing) if thing.plant]


def empty_in(listing: str) -> list[str]:
    """Return the names of the vessels that are empty: what a list writes as `(containing nothing)`."""
    return [thing.name for thing in things_in(listing) if thing.empty]


def holder_of(name: str, listing: str) -> str:
    """Return what a thing is in or on, by the first mention; empty where it is in the room, or not there."""
    return next((thing.within for thing in things_in(listing) if thing.name == name), "")


def needed(task: str) -> str:
    """Return what a task is about: "a plant", or the thing that it names first to focus on."""
    kind, thing = _KIND.search(task), _FOCUS.search(task)
    if kind:
        return f"{'an' if kind[1][0] in 'aeiou' else 'a'} {kind[1]}"
    return thing[1] if thing else "none"


def to_focus_on(task: str) -> list[str]:
    """Return what a task wants to be focused on, in its order."""
    return _FOCUS.findall(task)


def box_of(task: str) -> tuple[str, str]:
    """Return the box that a task names, and the room that it is in; two empty texts where it names none."""
    found = _BOX.search(task)
    return (found[1], found[2]) if found else ("", "")


def measured_in(task: str) -> tuple[str, str]:
    """Return what a task wants to be measured, and the room that it is in; two empty texts where it wants nothing."""
    found = _AROUND.search(task)
    return (found[1], found[2]) if found else ("", "")


def boxes_in(task: str) -> str:
    """Return the room where the boxes of a task are; an empty text where it does not say."""
    found = _BOXES.search(task)
    return found[1] if found else ""


def animals_at(task: str) -> str:
    """Return where the animals of a task are; an empty text where it does not say."""
    found = _ANIMALS.search(task)
    return found[1] if found else ""


def inside(room: str) -> str:
    """Say that something is in a room."""
    return room if room == "outside" else f"in the {room}"


def _read(text: str, within: str) -> Iterator[Thing]:
    """Yield a thing and what is in it."""
    named = _NAME.match(text)
    if named is None:
        return
    containing, on_it = _CONTAINING.search(text), _INSIDE.search(text)
    content = on_it or containing
    empty = on_it is None and containing is not None and containing[1] == _NOTHING
    plant = re.match(r" in the \w+ stage", text[named.end() :]) is not None
    yield Thing(named[1].strip(), within, plant, empty)
    if content is not None and content[1] != _NOTHING:
        for part in _parts(content[1]):
            yield from _read(part, named[1].strip())


def _parts(text: str) -> list[str]:
    """Cut a list at its commas, but not where they stand in brackets or before what is said of a thing."""
    parts, depth, start = [], 0, 0
    for place, letter in enumerate(text):
        depth += (letter == "(") - (letter == ")")
        if letter == "," and not depth and not re.match(r", (?:which|currently) ", text[place:]):
            parts.append(text[start:place])
            start = place + 2
    return [*parts, text[start:]]
