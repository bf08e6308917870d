"""Panels of `corridor`: tasks drawn from a few plans of doors, some of them kept for test_unseen.

The split of a task follows from the task alone (its plan, and a hash), so the splits are disjoint whatever the seed.
"""

from __future__ import annotations

import random
from collections.abc import Iterator, Mapping
from itertools import count, islice
from typing import Any

from qlass.envs.corridor.rules import CATEGORIES, NOTHING
from qlass.errors import SettingsError
from qlass.records import TaskSpec
from qlass.seeds import derive_seed

SPLITS = ("train", "dev", "test_seen", "test_unseen")
COLOURS = ("red", "blue", "green", "white", "black", "yellow")
ITEMS = ("lamp", "book", "key")

_SEEN_PLANS, _UNSEEN_PLANS = 8, 4
_MAX_MISSES = 2000
"""Draws in a row without a new task after which a split counts as exhausted."""


def check_options(options: Mapping[str, Any]) -> tuple[int, int]:
    """Return (length, rooms).

    Raises:
        SettingsError: an option is missing, unknown or out of range.
    """
    if options.keys() != {"length", "rooms"}:
        raise SettingsError(f"corridor options: found {sorted(options)}, allowed and needed are length and rooms")
    length, rooms = options["length"], options["rooms"]
    if not (isinstance(length, int) and len(ITEMS) <= length <= 9):
        raise SettingsError(f"corridor options: length={length!r}, allowed are {len(ITEMS)} to 9")
    if not (isinstance(rooms, int) and 2 <= rooms <= min(length, len(COLOURS))):
        raise SettingsError(f"corridor options: rooms={rooms!r}, allowed are 2 to {min(length, len(COLOURS))}")
    return length, rooms


def panels(options: Mapping[str, Any], split: str, seed: int) -> Iterator[TaskSpec]:
    """Yield the TaskSpecs of a split, categories in turn, until no new task is found.

    Args:
        options: `length` and `rooms`.
        split: train, dev, test_seen or test_unseen.
        seed: chooses and orders tasks inside the split.

    Raises:
        SettingsError: a bad option or split.
    """
    length, rooms = check_options(options)
    if split not in SPLITS:
        raise SettingsError(f"split={split!r}, allowed are {', '.join(SPLITS)}")
    plans = list(islice(_plans(length, rooms), _SEEN_PLANS + _UNSEEN_PLANS))
    plans = plans[_SEEN_PLANS:] if split == "test_unseen" else plans[:_SEEN_PLANS]
    return _draw(plans, split, random.Random(derive_seed("corridor", split, seed)))


def _plans(length: int, rooms: int) -> Iterator[str]:
    """Yield different plans of doors, one colour or "-" per cell, always in the same order."""
    rng = random.Random(derive_seed("corridor plans", length, rooms))
    seen = set()
    while True:
        doors = [NOTHING] * length
        for cell, colour in zip(rng.sample(range(length), rooms), rng.sample(COLOURS, rooms), strict=True):
            doors[cell] = colour
        if (plan := " ".join(doors)) not in seen:
            seen.add(plan)
            yield plan


def _draw(plans: list[str], split: str, rng: random.Random) -> Iterator[TaskSpec]:
    """Yield different tasks of the split."""
    seen: set[tuple[str | int, ...]] = set()
    misses = 0
    for index in count():
        category = CATEGORIES[index % len(CATEGORIES)]
        key = _key(plans, category, rng)
        while (task := tuple(key.values())) in seen or _split_of(task, split) != split:
            misses += 1
            if misses > _MAX_MISSES:
                return
            key = _key(plans, category, rng)
        misses = 0
        seen.add(task)
        yield TaskSpec(f"corridor/{split}/{index:05d}", "corridor", split, category, key)


def _key(plans: list[str], category: str, rng: random.Random) -> dict[str, Any]:
    """Draw one task: where items lie, where the agent starts, what it must do."""
    doors = rng.choice(plans)
    cells = doors.split()
    items = [NOTHING] * len(cells)
    for cell, item in zip(rng.sample(range(len(cells)), len(ITEMS)), ITEMS, strict=True):
        items[cell] = item
    return {
        "doors": doors,
        "items": " ".join(items),
        "start": rng.randint(1, len(cells)),
        "room": rng.choice([door for door in cells if door != NOTHING]),
        "item": {"enter": "", "fetch": rng.choice(["lamp", "book"]), "unlock": "key"}[category],
    }


def _split_of(task: tuple[str | int, ...], split: str) -> str:
    """Return the split of a task; the plans of test_unseen have no other."""
    if split == "test_unseen":
        return split
    return ("train", "train", "train", "dev", "test_seen")[derive_seed("corridor task", *task) % 5]
