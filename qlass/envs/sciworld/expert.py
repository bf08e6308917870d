"""A demonstrator for ScienceWorld: it follows the shortened golden path and says why, from what was read on the way.

The path is all that it knows beyond an agent (see `qlass.envs.sciworld.golden`). Its thoughts name what is needed, ask
what a small reader can answer, and decide (as in `alfworld.expert`): "Which animals are here? adult bee, dove egg.
Which lives longest? dove egg. I focus on it." Their questions are those of the reader's exercises
(`pretrain.sciworld.exercises`; a test compares them). They are made of the text of the task, the observations so far,
and the action.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from qlass.envs.sciworld.golden import ASKED, GOLDSMITH, LOOK, READING, TELEPORT, WALK, animals_in
from qlass.envs.sciworld.reading import (
    animals_at,
    box_of,
    boxes_in,
    empty_in,
    inside,
    measured_in,
    needed,
    plants_in,
    to_focus_on,
    wires_in,
)
from qlass.envs.sciworld.tasktypes import start_of
from qlass.records import TaskSpec

_KIND = re.compile(r"Your task is to find a\(n\) (.+?)\. First")
_MADE = re.compile(r"use chemistry to create (?:the substance '(.+?)'|(.+?))\. When")
_LIFE = re.compile(r"animal with the (longest|shortest) life span")
_ROOM = re.compile(r"(?:room|location) is called the (.+?)\.")
_PLACES = {"animal": "Animals live", "living thing": "Living things are", "plant": "Plants grow"}


class SciworldExpert:
    """Plays one episode; the actions are fixed when it is made.

    Args:
        spec: the task, whose golden path is asked for.
        seed: not used; there is one path, and one wording.
    """

    def __init__(self, spec: TaskSpec, seed: int) -> None:
        del seed
        self._path = GOLDSMITH.path(start_of(spec))
        self._step = 0
        self._task = ""
        self._room = ""
        self._read = ""  # the newest list of what is around
        self._reading = ""
        self._held: list[str] = []
        self._focused = ""
        self._wired = ""  # what was connected so far

    def act(self, observation: str) -> tuple[str, str]:
        """Return (thought, action) for the newest observation; after the end of the path, that it waits."""
        self._learn(observation)
        if self._step >= len(self._path):
            return "I have done all that I know. I wait.", "wait1"
        action = self._path[self._step]
        thought = self._think(action)
        self._step += 1
        return thought, action

    def _learn(self, observation: str) -> None:
        """Take in what was read, and what the last action changed."""
        last = self._path[self._step - 1] if 0 < self._step <= len(self._path) else ""
        if not last:
            self._task = observation
        if room := _ROOM.search(observation):
            self._room, self._read = room[1], observation
        if last.startswith(TELEPORT):
            self._room, self._read = last.removeprefix(TELEPORT), ""
        if last.startswith("focus on "):
            self._focused = last.removeprefix("focus on ")
        if last.startswith("pick up "):
            self._held.append(last.removeprefix("pick up "))
        if last.startswith("connect "):
            self._wired += f" {last}"
        if reading := READING.search(observation):
            self._reading = reading[1]

    def _think(self, action: str) -> str:
        """Return the reason for an action."""
        verb, _, rest = action.partition(" ")
        if action == LOOK:
            return (
                f"I am {inside(self._room)}. I look around."
                if self._room
                else "I do not know where I am. I look around."
            )
        if action.startswith(TELEPORT):
            return f"{self._destination(action.removeprefix(TELEPORT))} I teleport there."
        if action.startswith("focus on "):
            return f"{self._choice(action.removeprefix('focus on '))} I focus on it."
        if action.startswith("pick up "):
            return f"{self._taking(action.removeprefix('pick up '))} I take it along."
        if verb == "move":
            thing, _, goal = rest.partition(" to ")
            return f"{self._delivery(thing, goal)} I move it there."
        if verb == "use" and " on " in rest:
            tool, _, thing = rest.partition(" on ")
            return f"Do I have {tool}? {'yes' if tool in self._held else 'no'}. I use it on {thing}."
        if verb == "connect":
            return self._wiring(*rest.split(" to ", 1))
        if verb == "pour":
            thing, *places = rest.split(" in ")
            return self._pouring(_content(thing), next((place for place in places if place != self._room), "it"))
        if verb == "mix":
            return f"All that {self._made()} needs is together. I mix it."
        if walk := WALK.fullmatch(action):
            return f"I want to be {inside(walk[1])}. {'I open the door.' if verb == 'open' else 'I go there.'}"
        return "I wait and see what happens." if verb.startswith("wait") else f"The next thing to do: {action}."

    def _destination(self, room: str) -> str:
        """Say why it goes to a room."""
        following = next(self._coming(), "")
        kind = _KIND.search(self._task)
        box, place = box_of(self._task)
        if following.startswith("move ") and self._focused and box and place == room:
            return f"{self._holding()} Where is {box}? {inside(room)}."
        if kind:
            return f"What do I need? {needed(self._task)}. {_PLACES.get(kind[1], 'Such things are')} {inside(room)}."
        if animals_at(self._task) == room:
            return f"Where are the animals? {inside(room)}."
        if measured_in(self._task) == (_thing(following), room):
            return f"Where is {_thing(following)}? {inside(room)}."
        if self._held and boxes_in(self._task) == room:
            return f"{self._holding()} Where are the boxes? {inside(room)}."
        return f"What do I need? {needed(self._task)}. The place for {_thing(following)} is the {room}."

    def _choice(self, thing: str) -> str:
        """Say why it focuses on a thing."""
        if lives := _LIFE.findall(self._task):
            asked = list(dict.fromkeys(lives))
            which = asked[-1] if self._focused else asked[0]
            animals = dict.fromkeys([*animals_in(self._read), thing])
            return f"Which animals are here? {', '.join(animals)}. Which lives {which}? {thing}."
        if _KIND.search(self._task):
            for name, found in (("animals", animals_in(self._read)), ("plants", plants_in(self._read))):
                if thing in found:
                    there = ", ".join(dict.fromkeys(found))
                    return f"What do I need? {needed(self._task)}. Which {name} are here? {there}. One is {thing}."
            return f"What do I need? {needed(self._task)}. Is {thing} here? yes."
        if self._made() == thing:
            return f"It is {thing} now."
        there = f"Do I have {thing}? yes." if thing in self._held else f"Is {thing} here? yes."
        return f"What must I focus on? {', '.join(to_focus_on(self._task))}. {self._looking_at()} {there}"

    def _taking(self, thing: str) -> str:
        if self._focused == thing:
            return self._looking_at()
        if self._focused and _KIND.search(self._task):
            return f"{self._looking_at()} What is {self._focused} in? {thing}."
        return f"I need {thing}. Is {thing} here? yes."

    def _delivery(self, thing: str, goal: str) -> str:
        asked = ASKED.search(self._task)
        if asked and self._reading:
            limit = asked[1].removesuffix(".0")
            above = float(self._reading) > float(limit)
            return (
                f"How warm is it? {self._reading}. Is {self._reading} above {limit}? {'yes' if above else 'no'}. "
                f"Which box is for {'above' if above else 'below'}? {goal}."
            )
        have = self._holding() if thing in self._held else self._looking_at()
        return f"{have} Which box does the task name? {goal}."

    def _wiring(self, one: str, other: str) -> str:
        used = [wire for wire in wires_in(self._read) if wire in self._wired]
        asked = f"Which wires are here? {', '.join(wires_in(self._read))}. Which did I connect? {', '.join(used) or 'none'}."
        return f"{asked} I connect {one} to {other}."

    def _pouring(self, what: str, goal: str) -> str:
        first = not self._path[self._step - 1].startswith("pour ")
        into = f" What is empty here? {', '.join(empty_in(self._read)) or 'none'}." if first else ""
        return f"What do I need? {self._made()}. It needs {what}. Is {what} here? yes.{into} I pour it into {goal}."

    def _holding(self) -> str:
        return f"What do I have? {', '.join(self._held) or 'none'}."

    def _looking_at(self) -> str:
        return f"What did I focus on? {self._focused or 'none'}."

    def _made(self) -> str:
        """Return what the task wants to be made."""
        made = _MADE.search(self._task)
        return (made[1] or made[2]) if made else "the task"

    def _coming(self) -> Iterator[str]:
        """Yield the actions after the next one, but for looks."""
        return (action for action in self._path[self._step + 1 :] if action != LOOK)


def _thing(action: str) -> str:
    """Return what an action is about: "thermometer" of "pick up thermometer"."""
    rest = re.sub(r"^(?:focus on|pick up|look (?:at|in)|[a-z0-9]+) ", "", action)
    return _content(re.split(r" (?:to|in|into|on) ", rest)[0]) or "something"


def _content(thing: str) -> str:
    """Return what is in a vessel: "blue paint" of "cup containing blue paint"; other things as they are."""
    return thing.rpartition("containing ")[2]
