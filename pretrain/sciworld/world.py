"""Tasks to read in, what a reader of one episode knows, and how long animals live."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, field

from qlass.envs.sciworld.golden import LOOK, READING, TELEPORT, animals_in
from qlass.envs.sciworld.panels import types_of, variations
from qlass.envs.sciworld.reading import Thing, things_in, wires_in
from qlass.records import TaskSpec

ROOMS = (
    "kitchen", "foundry", "workshop", "bathroom", "outside", "living room", "bedroom", "greenhouse", "art studio",
    "hallway",
)  # fmt: skip
"""As the environment's instruction names them."""

LIFE_SPANS: Mapping[str, float] = {
    "ant": 0.1, "beaver": 16, "bee": 0.1, "blue jay": 7, "brown bear": 30, "butterfly": 0.1, "chameleon": 3,
    "chipmunk": 12, "common toad": 10, "crocodile": 45, "dove": 2, "dragonfly": 0.4, "elephant": 70, "frog": 6,
    "giant tortoise": 150, "hedgehog": 5, "moth": 0.2, "mouse": 4, "parrot": 80, "rabbit": 9, "turtle": 30, "wolf": 14,
}  # fmt: skip
"""Years that an animal typically lives: `lifespanTypical` of its properties in scienceworld 1.2.3 (a test asks it)."""

_ROOM = re.compile(r"(?:room|location) is called the (.+?)\.")
_FOCUSED = re.compile(r"You focus on the (.+)\.")
_AGE = re.compile(r"\b(?:adult|baby|caterpillar|egg|hatchling|juvenile|larva|pupa|tadpole)\b")


def specs() -> list[TaskSpec]:
    """Return the tasks of the corpus: the train block of each short type, without what is in another split.

    It has all tasks of the split `train`, and those of the block that are in no split.
    """
    found = []
    for one in types_of("short"):
        taken = set(variations(one, "dev"))
        for number in one.blocks[0]:
            if number not in taken:
                key = {"task": one.name, "variation": number, "containers": "open"}
                found.append(TaskSpec(f"sciworld/train/{one.name}-{number:04d}", "sciworld", "train", one.name, key))
    return found


@dataclass
class Visit:
    """An episode as a reader sees it: what its texts said so far.

    Attributes:
        task: the text of the task.
        room: where the player is; empty where it was not said.
        listing: the newest list of what is around in this room; empty where it was not read.
        held: things that were picked up and not put away, in the words of the actions.
        focused: what was focused on last, as the answer has it; "none" before.
        connected: wires that were connected, each once.
        readings: what thermometers said, degrees.
        visited: rooms that were gone to, each once.
        last: the newest action.
        facts: whether names mean what they say: not where they are made up.
    """

    task: str
    room: str = ""
    listing: str = ""
    held: list[str] = field(default_factory=list)
    focused: str = "none"
    connected: list[str] = field(default_factory=list)
    readings: list[str] = field(default_factory=list)
    visited: list[str] = field(default_factory=list)
    last: str = ""
    facts: bool = True

    def read(self, action: str, text: str) -> None:
        """Take in an action and its answer; a refused action changes nothing."""
        self.last = action
        if found := _ROOM.search(text) if action == LOOK else None:
            self.room, self.listing = found[1], text
        if text.startswith("You teleport to "):
            self.room, self.listing = action.removeprefix(TELEPORT), ""
            if self.room not in self.visited:
                self.visited.append(self.room)
        if text.startswith("You move the "):
            thing, _, goal = action.removeprefix("pick up ").removeprefix("move ").partition(" to ")
            if goal in ("", "inventory") and thing not in self.held:
                self.held.append(thing)
            elif goal and thing in self.held:
                self.held.remove(thing)
        if found := _FOCUSED.fullmatch(text):
            self.focused = found[1]
        if " is now connected to " in text:
            wires = [wire for wire in wires_in(self.listing) if wire in text and wire not in self.connected]
            self.connected += wires
        if found := READING.search(text):
            self.readings.append(found[1])

    @property
    def things(self) -> tuple[Thing, ...]:
        """Everything that the newest list names."""
        return things_in(self.listing)

    @property
    def names(self) -> list[str]:
        """Names in the newest list that stand there once: an action that names one means one thing."""
        names = [thing.name for thing in self.things]
        return [name for name in names if names.count(name) == 1]

    @property
    def animals(self) -> list[str]:
        """Names of the animals in the newest list, each once."""
        return list(dict.fromkeys(animals_in(self.listing)))


def life_span(animal: str) -> float | None:
    """Return how many years an animal lives; its age belongs to its name. None where it is unknown."""
    return LIFE_SPANS.get(" ".join(_AGE.sub("", animal).split()))
