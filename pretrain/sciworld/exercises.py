"""Questions about a task, a list of what is around and what was done, answered from what the texts say.

They are what the expert's thoughts ask (`qlass.envs.sciworld.expert`), in its words, and an answer repeats its question
as a thought does. None asks what to do. Only how long animals live stands in no text: `LIFE_SPANS` has it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence

from pretrain.conversations import Exercise, listed, yes
from pretrain.sciworld.world import ROOMS, Visit, life_span
from qlass.envs.sciworld.golden import ASKED
from qlass.envs.sciworld.reading import (
    animals_at,
    box_of,
    boxes_in,
    empty_in,
    holder_of,
    inside,
    measured_in,
    needed,
    plants_in,
    to_focus_on,
    wires_in,
)

Asked = Sequence[tuple[str, str]]
"""Questions with their answers: the last one is asked, those before it lead to it."""
Ask = Callable[[Visit, random.Random], Asked | None]
"""Draws questions; None where the texts give no reason for them."""


def draw(visit: Visit, rng: random.Random) -> Exercise:
    """Draw a question about what was read; most of those that find nothing are drawn again."""
    while True:
        groups = (TASK, HERE, MEMORY) if visit.listing else (TASK, MEMORY)
        asks = rng.choices(groups, (2, 6, 2) if visit.listing else (3, 2))[0]
        kind = rng.choices(list(asks), [_RARE.get(kind, 1.0) for kind in asks])[0]
        asked = asks[kind](visit, rng)
        if asked and (asked[-1][1] != "none" or rng.random() < _NOTHING):
            return Exercise(kind, asked[-1][0], said(asked))


_RARE = {
    "is it above the limit": 4.0,
    "which box is for which side": 2.0,
    "which animal lives longest or shortest": 5.0,
    "which wires were connected": 3.0,
    "what was measured": 3.0,
    "what was focused on": 2.0,
}
"""Weights of questions that few texts give a reason for; others have 1."""
_NOTHING = 0.15
"""Share of the questions without an answer that are asked all the same."""


def remark(visit: Visit, rng: random.Random) -> str:
    """Draw questions that are short with their answers, for a thought."""
    while True:
        thought = draw(visit, rng).answer
        if len(thought) <= _SHORT:
            return thought


def said(asked: Asked) -> str:
    """Return questions with their answers, as thoughts have them."""
    return " ".join(f"{question} {answer}." for question, answer in asked)


_SHORT = 120
"""Characters of a thought at most."""


# About the task


def _needed(visit: Visit, _rng: random.Random) -> Asked:
    return [("What do I need?", needed(visit.task))]


def _must_focus(visit: Visit, _rng: random.Random) -> Asked | None:
    things = to_focus_on(visit.task)
    return [("What must I focus on?", listed(things))] if "thing" not in things else None


def _box(visit: Visit, _rng: random.Random) -> Asked | None:
    box, _ = box_of(visit.task)
    return [("Which box does the task name?", box)] if box else None


def _where_box(visit: Visit, _rng: random.Random) -> Asked | None:
    box, room = box_of(visit.task)
    return [(f"Where is {box}?", inside(room))] if box else None


def _where_thing(visit: Visit, _rng: random.Random) -> Asked | None:
    thing, room = measured_in(visit.task)
    return [(f"Where is {thing}?", inside(room))] if thing else None


def _where_boxes(visit: Visit, _rng: random.Random) -> Asked | None:
    room = boxes_in(visit.task)
    return [("Where are the boxes?", inside(room))] if room else None


def _where_animals(visit: Visit, _rng: random.Random) -> Asked | None:
    room = animals_at(visit.task)
    return [("Where are the animals?", inside(room))] if room else None


def _above(visit: Visit, rng: random.Random) -> Asked | None:
    """Ask whether a number is above the task's limit: what was measured last, or one that is near or far."""
    if not (asked := ASKED.search(visit.task)):
        return None
    limit = int(float(asked[1]))
    if visit.readings and rng.random() < 0.5:
        return [("How warm is it?", visit.readings[-1]), *_compared(int(visit.readings[-1]), limit)]
    return _compared(limit + rng.choice((-1, 1)) * round(250 ** rng.uniform(0.0, 1.0)), limit)


def _which_box(visit: Visit, rng: random.Random) -> Asked | None:
    if not (asked := ASKED.search(visit.task)):
        return None
    side = rng.choice((0, 1))
    return [(f"Which box is for {('above', 'below')[side]}?", asked[2 + side])]


# About the newest list


def _animals(visit: Visit, _rng: random.Random) -> Asked:
    return [("Which animals are here?", listed(visit.animals))]


def _lives(visit: Visit, rng: random.Random) -> Asked | None:
    """Ask which animal lives longest or shortest, where it is known and one alone does."""
    spans = {animal: life_span(animal) for animal in visit.animals}
    known = [span for span in spans.values() if span is not None]
    if not visit.facts or len(known) < max(2, len(spans)):
        return None
    which, best = rng.choice((("longest", max(known)), ("shortest", min(known))))
    found = [animal for animal, span in spans.items() if span == best]
    return [*_animals(visit, rng), (f"Which lives {which}?", found[0])] if len(found) == 1 else None


def _plants(visit: Visit, _rng: random.Random) -> Asked:
    return [("Which plants are here?", listed(dict.fromkeys(plants_in(visit.listing))))]


def _wires(visit: Visit, _rng: random.Random) -> Asked:
    return [("Which wires are here?", listed(wires_in(visit.listing)))]


def _connected(visit: Visit, rng: random.Random) -> Asked | None:
    if not (wires := wires_in(visit.listing)):
        return None
    used = [wire for wire in wires if wire in visit.connected]
    return [*_wires(visit, rng), ("Which did I connect?", listed(used))]


def _empty(visit: Visit, _rng: random.Random) -> Asked:
    return [("What is empty here?", listed(empty_in(visit.listing)))]


def _here(visit: Visit, rng: random.Random) -> Asked:
    """Ask for a thing of the list, or for one that the task names, that is held, or that stands in other rooms."""
    names = [thing.name for thing in visit.things]
    others = [*to_focus_on(visit.task), *visit.held, rng.choice(_ELSEWHERE), rng.choice(_ELSEWHERE)]
    name = rng.choice(names if rng.random() < 0.5 else others)
    return [(f"Is {name} here?", yes(name in names))]


def _holder(visit: Visit, rng: random.Random) -> Asked | None:
    """Ask what a thing is in, where the list has it once and in something."""
    names = [thing.name for thing in visit.things]
    inner = [thing.name for thing in visit.things if thing.within and names.count(thing.name) == 1]
    if not inner:
        return None
    name = rng.choice(inner)
    return [(f"What is {name} in?", holder_of(name, visit.listing))]


def _doors(visit: Visit, _rng: random.Random) -> Asked:
    return [("Which doors are here?", listed(re.findall(r"A door to the (.+?) \(", visit.listing)))]


def _all(visit: Visit, _rng: random.Random) -> Asked:
    return [("What is here?", listed(thing.name for thing in visit.things if not thing.within))]


_ELSEWHERE = (
    "thermometer", "finger painting", "flower pot 3", "battery", "red paint", "blue paint", "blue box", "orange box",
    "stopwatch", "dove egg", "baby mouse", "metal pot", "jug", "red wire", "black wire", "lighter", "white pillow",
)  # fmt: skip
"""Things of some rooms."""


# About what was done


def _have(visit: Visit, _rng: random.Random) -> Asked:
    return [("What do I have?", listed(visit.held))]


def _do_i_have(visit: Visit, rng: random.Random) -> Asked | None:
    others = [*to_focus_on(visit.task), *(thing.name for thing in visit.things), rng.choice(_ELSEWHERE)]
    if not visit.held and rng.random() > _NOTHING:
        return None
    name = rng.choice(visit.held if visit.held and rng.random() < 0.6 else others)
    return [(f"Do I have {name}?", yes(name in visit.held))]


def _focused(visit: Visit, _rng: random.Random) -> Asked:
    return [("What did I focus on?", visit.focused)]


def _room(visit: Visit, _rng: random.Random) -> Asked | None:
    return [("Where am I?", inside(visit.room))] if visit.room else None


def _visited(visit: Visit, rng: random.Random) -> Asked | None:
    if not visit.visited:
        return None
    room = rng.choice(visit.visited if rng.random() < 0.5 else ROOMS)
    return [(f"Did I go to {room}?", yes(room in visit.visited))]


def _measured(visit: Visit, _rng: random.Random) -> Asked | None:
    return [("How warm is it?", visit.readings[-1])] if visit.readings else None


def _last(visit: Visit, _rng: random.Random) -> Asked | None:
    return [("What did I do last?", visit.last)] if visit.last else None


TASK: Mapping[str, Ask] = {
    "what is needed": _needed,
    "what to focus on": _must_focus,
    "which box the task names": _box,
    "where its box is": _where_box,
    "where the thing to measure is": _where_thing,
    "where the boxes are": _where_boxes,
    "where the animals are": _where_animals,
    "is it above the limit": _above,
    "which box is for which side": _which_box,
}
HERE: Mapping[str, Ask] = {
    "which animals are here": _animals,
    "which animal lives longest or shortest": _lives,
    "which plants are here": _plants,
    "which wires are here": _wires,
    "which wires were connected": _connected,
    "what is empty": _empty,
    "is this here": _here,
    "what a thing is in": _holder,
    "which doors are here": _doors,
    "what is here": _all,
}
MEMORY: Mapping[str, Ask] = {
    "what is held": _have,
    "is this held": _do_i_have,
    "what was focused on": _focused,
    "which room": _room,
    "was this room gone to": _visited,
    "what was measured": _measured,
    "what was done last": _last,
}


def _compared(number: int, limit: int) -> Asked:
    return [(f"Is {number} above {limit}?", yes(number > limit))]
