"""A demonstrator for ALFWorld that explores: it sees the observations an agent sees, and nothing else.

It looks for the object where such objects can be, likely and cheap places first, never twice in the same place, and
remembers all it has seen. Its thoughts are short templates that name what is needed, then ask whether that is in sight,
and answer, before they decide (self-ask: Press et al., arXiv 2210.03350): to look up the goal, compare and decide in one
step is too much for a small reader.

Source: the strategy is that of alfworld's handcoded experts (`agents/expert/handcoded_expert_tw.py`, MIT), written
anew. *Differs from alfworld:* it reads no facts and no `traj_data.json`, closes nothing, and handles pick-two.
"""

from __future__ import annotations

import re
from functools import cache

from qlass.envs.alfworld import rooms
from qlass.envs.alfworld.goals import Goal, parse_goal
from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec

# Where loose things are most often; 1.0 for a receptacle not named here. Closed ones cost a second action, to open.
_PRIOR = {"CounterTop": 2.5, "DiningTable": 2.5, "Desk": 2.3, "CoffeeTable": 2.2, "Dresser": 2.2, "Bed": 1.6}
_PRIOR |= {"SideTable": 1.5, "Sofa": 1.3, "SinkBasin": 1.2, "Shelf": 0.9, "GarbageCan": 0.9}
_LAMP_PRIOR = {"Desk": 4.0, "SideTable": 3.0, "Dresser": 2.0, "DiningTable": 1.5, "CoffeeTable": 1.5, "Shelf": 1.0}
_TOOLS = {"clean": "SinkBasin", "heat": "Microwave", "cool": "Fridge"}
_TREATED = {"clean": "clean", "heat": "hot", "cool": "cool"}
_THING = r"[a-z]+ \d+"
_SEEN = re.compile(rf"(?:On the|The) ({_THING})(?: is open\. In it|), you see (.*?)\.")
_TAKEN = re.compile(rf"You pick up the ({_THING}) from the ({_THING})")
_PLACED = re.compile(rf"You (?:move|put) the ({_THING}) (?:to|in/on) the ({_THING})")


@cache
def _receptacle_kinds() -> dict[str, str]:
    """Return receptacle classes by the lower-case word of the observations."""
    return {kind.lower(): kind for kind in rooms.allowed()}


def _word(name: str) -> str:
    """Return the class word of `cabinet 3`: `cabinet`."""
    return name.partition(" ")[0]


def _kind(place: str) -> str:
    """Return the class of `cabinet 3`: `Cabinet`."""
    return _receptacle_kinds().get(_word(place), place)


def _things(listing: str) -> list[str]:
    """Return the names in `a cup 3, a dishsponge 2, and a statue 1`, in reading order."""
    return re.findall(_THING, listing)


def _may_hold(place: str, target: str) -> bool:
    """Say whether the wheel's table lets a place hold an object class (in lower case)."""
    return target in {name.lower() for name in rooms.allowed().get(_kind(place), ())}


def _number(place: str) -> tuple[str, int]:
    word, number = place.split()
    return word, int(number)


class AlfworldExpert:
    """Plays one episode from observations alone; the same observations always give the same actions.

    Args:
        spec: not read; an agent does not see it either.
        seed: not used; the search order is fixed.
        wording: `move` for "move X to Y", `classic` for "put X in/on Y"; changed by itself when refused.
    """

    def __init__(self, spec: TaskSpec, seed: int, *, wording: str = "move") -> None:
        del spec, seed
        self._classic = wording == "classic"
        self._wording_known = False
        self._goal: Goal | None = None
        self._places: list[str] = []
        self._contents: dict[str, list[str]] = {}  # what was last seen, for every place that was looked into
        self._here = ""
        self._held = ""
        self._treated = False  # the held object is clean, hot or cool, as asked
        self._given_up: set[str] = set()  # goal places that refused the object
        self._last = ""

    def act(self, observation: str) -> tuple[str, str]:
        """Return (thought, action) for the newest observation."""
        if self._goal is None:
            self._goal = parse_goal(observation)
            self._places = sorted(_things(observation.partition("Your task is to:")[0]), key=_number)
        elif re.match(r"\s*Nothing happen", observation):
            self._learn_refusal()
        else:
            self._learn(observation)
        thought, self._last = self._decide(self._goal)
        return thought, self._last

    def _learn(self, observation: str) -> None:
        """Take in what the last action changed and what is seen."""
        go = re.fullmatch(rf"go to ({_THING})", self._last)
        if go:
            self._here = go[1]
        for place, things in _SEEN.findall(observation):
            self._contents[place] = _things(things)
        if found := _TAKEN.search(observation):
            self._held, self._treated = found[1], False
            self._forget(found[1], found[2])
        elif found := _PLACED.search(observation):
            self._contents.setdefault(found[2], []).append(found[1])
            self._held, self._wording_known = "", True
        elif re.match(r"\s*You (?:clean|heat|cool) the", observation):
            self._treated = True

    def _learn_refusal(self) -> None:
        """Take in that the engine did not execute the last action."""
        verb, _, rest = self._last.partition(" ")
        things = _things(rest)
        if verb == "go":  # refused only where one already stands: two receptacles can share a stand point
            self._here = things[0]
        elif verb in ("open", "examine"):
            self._contents.setdefault(things[0], [])
        elif verb in ("take", "use"):
            self._forget(things[0], self._here)
        elif verb in ("move", "put"):
            if self._wording_known:
                self._given_up.add(things[1])
            else:
                self._classic, self._wording_known = not self._classic, True
        else:
            self._treated = True

    def _forget(self, thing: str, place: str) -> None:
        self._contents[place] = [other for other in self._contents.get(place, []) if other != thing]

    def _decide(self, goal: Goal) -> tuple[str, str]:
        if not self._held:
            return self._fetch(goal)
        if goal.category == "look":
            return self._light(goal)
        if goal.category in _TOOLS and not self._treated:
            return self._treat(goal)
        return self._deliver(goal)

    def _fetch(self, goal: Goal) -> tuple[str, str]:
        """Get an object of the target class: take it, go where one was seen, or search."""
        done = self._delivered(goal)
        kept = max(done, key=lambda place: done[place], default="") if goal.category == "two" else ""
        purpose = f" to {goal.category}" if goal.category in _TOOLS else ""
        need = f"I need {'one more' if kept else 'a'} {goal.target}{purpose}."
        if not kept or kept != self._here:  # what was put down there is not looked for
            need = f"{need} {self._question(goal.target)}"
        for place in sorted(self._contents, key=lambda place: (place != self._here, _number(place))):
            for thing in self._contents[place]:
                if _word(thing) != goal.target or place == kept:
                    continue
                if place == self._here:
                    return f"{need} I take it from {place}.", f"take {thing} from {place}"
                return f"{need} I saw {thing} at {place}. I go to {place}.", f"go to {place}"
        lamp_seen = any(_word(thing) == goal.toggle for things in self._contents.values() for thing in things)
        return self._search(need, goal, for_target=True, for_lamp=bool(goal.toggle) and not lamp_seen)

    def _question(self, kind: str) -> str:
        """Ask whether a kind of thing is in sight, and answer."""
        found = next((thing for thing in self._contents.get(self._here, []) if _word(thing) == kind), None)
        return f"Is there a {kind} here? " + (f"yes, {found}." if found else "no.")

    def _search(self, need: str, goal: Goal, *, for_target: bool, for_lamp: bool) -> tuple[str, str]:
        """Look into the place at hand, or go to the best place not looked into."""

        def worth(place: str) -> float:
            kind = _kind(place)
            closed = kind in rooms.openable_kinds()
            value = 0.0
            if for_target and _may_hold(place, goal.target):
                # What lies in a goal receptacle already is seldom what is asked for.
                value += 0.01 if _word(place) == goal.receptacle else _PRIOR.get(kind, 1.0)
            if for_lamp and not closed:
                value += _LAMP_PRIOR.get(kind, 0.02)
            return value / (2.0 if closed else 1.0)

        if self._here and self._here not in self._contents and worth(self._here) > 0.0:
            return self._look_into(self._here)
        unknown = [place for place in self._places if place not in self._contents]
        if not unknown:
            return f"{need} I look around again.", "look"
        best = max(unknown, key=worth)  # the first of equals: places are sorted by name and number
        if best == self._here:
            return self._look_into(best)
        return f"{need} I check {best} next.", f"go to {best}"

    def _look_into(self, place: str) -> tuple[str, str]:
        if _kind(place) in rooms.openable_kinds():
            return f"The {place} is closed. I open it.", f"open {place}"
        return f"The {place} is right here. I examine it.", f"examine {place}"

    def _treat(self, goal: Goal) -> tuple[str, str]:
        """Clean, heat or cool the held object; the tool need not be open."""
        verb, kind = goal.category, _TOOLS[goal.category]
        tools = [place for place in self._places if _kind(place) == kind]
        if not tools:
            raise EnvironmentFault(f"goal {goal}: the room lists no {kind.lower()}; places: {', '.join(self._places)}")
        tool = self._here if self._here in tools else tools[0]
        if tool == self._here:
            return f"Now I {verb} {self._held} with {tool}.", f"{verb} {self._held} with {tool}"
        return f"I have {self._held}. It must be {_TREATED[verb]}. I bring it to {tool}.", f"go to {tool}"

    def _light(self, goal: Goal) -> tuple[str, str]:
        """Turn on a lamp while holding the object."""
        need = f"I have {self._held}. I need a {goal.toggle}. {self._question(goal.toggle)}"
        for place, things in self._contents.items():
            for lamp in things:
                if _word(lamp) != goal.toggle:
                    continue
                if place == self._here:
                    return f"{need} I use it.", f"use {lamp}"
                return f"{need} I saw {lamp} at {place}. I go to {place}.", f"go to {place}"
        return self._search(need, goal, for_target=False, for_lamp=True)

    def _delivered(self, goal: Goal) -> dict[str, int]:
        """Return goal places known to hold objects of the target class, and how many."""
        counts = {
            place: sum(_word(thing) == goal.target for thing in things)
            for place, things in self._contents.items()
            if _word(place) == goal.receptacle
        }
        return {place: count for place, count in counts.items() if count}

    def _deliver(self, goal: Goal) -> tuple[str, str]:
        """Put the held object where it belongs; a pick-two task wants both in one place."""
        places = [place for place in self._places if _word(place) == goal.receptacle]
        places = [place for place in places if place not in self._given_up] or places
        if not places:
            raise EnvironmentFault(f"goal {goal}: no such receptacle in the room; places: {', '.join(self._places)}")
        done = self._delivered(goal) if goal.category == "two" else {}
        # Fewest actions: the fullest first (pick-two), then the one at hand, then one that is open, then by number.
        seen, here = self._contents, self._here
        place = min(places, key=lambda name: (-done.get(name, 0), name != here, name not in seen, _number(name)))
        if place != here:
            held = self._held
            state = f"The {held} is {_TREATED[goal.category]}" if self._treated else f"I have {held}"
            return f"{state}. I bring it to {place}.", f"go to {place}"
        if place not in self._contents and _kind(place) in rooms.openable_kinds():
            return self._look_into(place)
        word = "in" if _kind(place) in rooms.openable_kinds() else "on"
        action = f"put {self._held} in/on {place}" if self._classic else f"move {self._held} to {place}"
        return f"I put {self._held} {word} {place}.", action
