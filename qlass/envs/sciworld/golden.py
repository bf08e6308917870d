"""Golden paths, shortened to natural play: what the expert knows that an agent does not.

The package finds a golden path with all of the world before it. The expert gets the actions of the path for its own
task, nothing else, and nobody would act like that. So they are rewritten here, in a Java virtual machine for golden
paths alone:

* The path walks from room to room, and opens doors that are open. Each walk becomes one `teleport to`.
* It looks around where it need not, and does not where it must. `look around` stands at the start, and after a
  teleport where an action names something that was not read of before.
* It names things oddly ("focus on egg frog"). The name in the simulator's answer ("You focus on the frog egg.") takes
  its place where that has the same answer.
* It may put a thing into a box for what it measured on a longer way. The reading of the shorter way decides.
* It may want a bee, which flies away. Where that fails, another animal is as good.
* It waits when all is done. What comes after the end is cut.

A rewritten path counts if its replay reaches a score of 100. Where it does not, as in tasks that watch the clock, what
is left of the rewriting is tried: without the names, then the golden path as it is. Of 116 tasks of the ten short
types all were solved in at most 11 actions.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence

from qlass.envs.sciworld.simulator import Reply, Simulator, SimulatorDied
from qlass.envs.sciworld.tasktypes import Start

HEAP_MB = 256
"""Heap of the machine that finds golden paths (MB): the search for `boil` needs more than 160."""

LOOK = "look around"

READING = re.compile(r"measures a temperature of (-?\d+) degrees")
ASKED = re.compile(r"above (-?[\d.]+) degrees celsius, place it in the (.+? box)\. If .* below .* in the (.+? box)\.")
_FIND = re.compile(r"find a\(n\) (?:animal|living thing)\. .* move it to the (.+ box) in the (.+)\.")
_LISTED = re.compile(r"^\t(?:an?|the) ([a-z -]+)", re.MULTILINE)
_AGES = {"adult", "baby", "caterpillar", "egg", "hatchling", "juvenile", "larva", "pupa", "tadpole"}
_FLYING = "bee"
TELEPORT = "teleport to "
WALK = re.compile(r"(?:open door to|go to) (.+)")
_INSIDE = re.compile(r" in inventory\b")
_NAMED = re.compile(r"You focus on the (.+)\.|You move the (.+?) to the (?:.+)\.")
_THINGS = re.compile(
    r"^(?:focus on|pick up|move|pour|mix|use|connect|activate|deactivate|look at|look in|open|close|read) "
)
_BETWEEN = re.compile(r" (?:to|in|into|on|with) ")

Played = list[tuple[str, Reply]]
"""Actions with what the simulator answered."""


class Goldsmith:
    """Finds and shortens golden paths, in a machine that it starts when it is first asked."""

    def __init__(self) -> None:
        """Start nothing yet."""
        self._settings: tuple[str | None, float] = (None, 120.0)
        self._simulator: Simulator | None = None

    def use(self, java: str | None, start_limit_s: float) -> None:
        """Take the arguments of its next `Simulator`."""
        self._settings = (java, start_limit_s)

    def path(self, start: Start) -> tuple[str, ...]:
        """Return the actions for a task; a path that does not reach a score of 100 where there is no better one.

        Raises:
            SimulatorDied: its machine ended twice.
        """
        try:
            return self._path(start)
        except SimulatorDied:
            self.close()
            return self._path(start)

    def close(self) -> None:
        """End the machine; the next question starts another."""
        if self._simulator is not None:
            self._simulator.close()
            self._simulator = None

    def _started(self) -> Simulator:
        if self._simulator is None:
            self._simulator = Simulator(*self._settings, HEAP_MB)
        return self._simulator

    def _path(self, start: Start) -> tuple[str, ...]:
        simulator = self._started()
        task = simulator.load(*start, golden=True)
        golden = self._play(start, simulator.golden_path())
        path = [action for action, _ in golden]
        for candidate in self._candidates(start, task, golden):
            played = self._play(start, candidate)
            path = [action for action, _ in played]
            if played and _is_solved(played[-1][1]):
                break
        return tuple(path)

    def _candidates(self, start: Start, task: str, golden: Played) -> Iterator[list[str]]:
        """Yield rewritten paths, the most natural first."""
        walked = _teleporting(golden)
        yield _looking(task, _measured(task, self._renamed(start, walked)))
        yield from self._others(start, task)
        yield _looking(task, walked)
        yield [action for action, _ in golden]

    def _others(self, start: Start, task: str) -> Iterator[list[str]]:
        """Yield ways to find another animal, one that stays where it is."""
        if found := _FIND.search(task):
            there = [f"{TELEPORT}outside", LOOK]
            for name in animals_in(self._play(start, there)[-1][1].text):
                if _FLYING not in name:
                    box, room = found[1], found[2]
                    yield [*there, f"focus on {name}", f"pick up {name}", f"{TELEPORT}{room}", f"move {name} to {box}"]

    def _play(self, start: Start, actions: Sequence[str]) -> Played:
        """Execute actions from the start, none after the end."""
        simulator = self._started()
        simulator.load(*start)
        played: Played = []
        for action in actions:
            played.append((action, simulator.step(action)))
            if played[-1][1].completed:
                break
        return played

    def _renamed(self, start: Start, walked: Played) -> Played:
        """Play a path with the names that the simulator's answers have, where these lead to the same answers."""
        names = _names(walked)
        natural = [_natural(action, reply.text, names) for action, reply in walked]
        while True:
            played = self._play(start, natural)
            pairs = zip(played, walked, strict=False)  # it may end earlier
            wrong = next((place for place, (found, other) in enumerate(pairs) if not _is_same(found, other)), None)
            if wrong is None or natural[wrong] == walked[wrong][0]:
                return played
            natural[wrong] = walked[wrong][0]


GOLDSMITH = Goldsmith()
"""This process's own. Experts are made without the environment's options, so engines tell it how to start."""


def animals_in(listing: str) -> list[str]:
    """Return the names of the animals in a list of what is around, in its order: they are named with their age."""
    names = (name.strip() for name in _LISTED.findall(listing))
    return [name for name in names if not _AGES.isdisjoint(name.split())]


def _is_solved(reply: Reply) -> bool:
    return reply.completed and reply.score >= 1.0


def _is_same(found: tuple[str, Reply], other: tuple[str, Reply]) -> bool:
    """Return whether two actions had one answer; teleports replace walks, and what is measured changes with time."""
    if found[0].startswith(TELEPORT):
        return True
    return READING.sub("", found[1].text) == READING.sub("", other[1].text)


def _teleporting(golden: Played) -> Played:
    """Return a path without looks and needless openings, each walk as one teleport; the answers stay."""
    walked: Played = []
    for action, reply in golden:
        if walk := WALK.fullmatch(action):
            if walked and walked[-1][0].startswith(TELEPORT):
                walked.pop()
            walked.append((f"{TELEPORT}{walk[1]}", reply))
        elif action != LOOK and not reply.text.endswith("is already open."):
            walked.append((action, reply))
    return walked


def _names(walked: Played) -> dict[str, str]:
    """Return by the golden path's words for a thing the name that `focus on` answered with."""
    names = {}
    for action, reply in walked:
        if action.startswith("focus on ") and (named := _NAMED.fullmatch(reply.text)):
            names[_INSIDE.sub("", action.removeprefix("focus on "))] = named[1]
    return names


def _natural(action: str, answer: str, names: dict[str, str]) -> str:
    """Return an action with the names of things that answers have."""
    verb, _, rest = action.partition(" ")
    named = _NAMED.fullmatch(answer)
    if action.startswith("focus on ") and named:
        return f"focus on {named[1]}"
    if verb in ("pick", "move") and named:
        thing, _, goal = rest.removeprefix("up ").partition(" to ")
        thing = _INSIDE.sub("", thing)
        focused = [name for name in names.values() if named[2] in (name, *name.split()) or name.startswith(named[2])]
        name = names.get(thing) or next(iter(focused), named[2])
        return f"pick up {name}" if verb == "pick" else f"move {name} to {goal}"
    return _INSIDE.sub("", action)


def _measured(task: str, played: Played) -> Played:
    """Let the last action of a path answer what was measured on it: a thing cools less if nobody walks."""
    asked = ASKED.search(task)
    readings = [float(found[1]) for _, reply in played if (found := READING.search(reply.text))]
    if asked is None or not readings:
        return played
    limit, above, below = float(asked[1]), asked[2], asked[3]
    action, reply = played[-1]
    thing, _, _ = action.partition(" to ")
    return [*played[:-1], (f"{thing} to {above if readings[-1] > limit else below}", reply)]


def _looking(task: str, played: Played) -> list[str]:
    """Return a path that looks around at the start, and in each room where it needs what it has not read of yet."""
    read, actions, looked = list[str](), list[str](), False
    for action, reply in played:
        if action.startswith(TELEPORT):
            looked = False
        elif not looked and not (actions and _is_known(action, task, read)):
            actions.append(LOOK)
            looked = True
        actions.append(action)
        read.append(reply.text)
    return actions


def _is_known(action: str, task: str, read: Sequence[str]) -> bool:
    """Return whether all things that an action names were read of, or are where the task wants something."""
    rest, found = _THINGS.subn("", action)
    things = _BETWEEN.split(rest)
    if action.startswith("move ") and things[-1] in task:
        things.pop()
    return not found or all(any(thing in text for text in read) for thing in things)
