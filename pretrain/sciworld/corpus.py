"""Write the corpus of the reader of ScienceWorld: random play in its training tasks, told with exercises.

    python -m pretrain.sciworld.corpus

No action of the expert and no golden path is in it. The player has no goal: it does things with what it sees, mostly
what is possible, with a taste of its own for kinds of actions, and names of the task catch its eye. The simulator is
slow, so each walk is told several times: with other exercises, and in a share of them with made-up names and numbers.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import cache, partial
from itertools import chain
from multiprocessing import get_context
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from pretrain.conversations import Conversation, Renaming, made_up_word
from pretrain.sciworld.exercises import draw, remark
from pretrain.sciworld.world import ROOMS, Visit, specs
from qlass.envs.sciworld import DEFINITION
from qlass.envs.sciworld.adapter import SciworldEnv, normalise_action
from qlass.prompts import render_reply
from qlass.records import TaskSpec
from qlass.seeds import derive_seed

logger = logging.getLogger(__name__)

OUT = Path("pretrain/data/sciworld/corpus.jsonl")

_TASTE = {
    "look": 1.0,
    "teleport": 3.0,
    "pick up": 3.0,
    "move": 3.0,
    "focus": 1.2,
    "inspect": 0.7,
    "use": 1.5,
    "pour": 1.0,
    "mix": 0.7,
    "connect": 2.5,
    "switch": 0.4,
    "wait": 0.2,
    "inventory": 0.3,
}
"""How gladly a random player does what, on average."""
_CURIOUS = 12.0
"""How gladly it looks around where it has not."""
_SLIP = 0.08
"""Share of the actions that name something which is elsewhere."""
_CAUGHT = 0.5
"""Share of the choices among things in which those that the task names go first."""


class Turn(NamedTuple):
    """An action and its answer."""

    action: str
    text: str


class Walk(NamedTuple):
    """A random episode: the text of the task, and what was done."""

    task: str
    turns: Sequence[Turn]


def walk(env: SciworldEnv, spec: TaskSpec, max_steps: int, rng: random.Random) -> Walk:
    """Act at random until the end of the episode, `max_steps` actions at most."""
    task, _ = env.reset(spec)
    visit, turns, over, seen = Visit(task), list[Turn](), False, list[str]()
    taste = {kind: weight * rng.uniform(0.3, 1.7) for kind, weight in _TASTE.items()}
    for _ in range(rng.randint(max_steps // 2, max_steps)):
        action = normalise_action(_choose(visit, taste, seen, rng))
        text, _, over, _, _ = env.step(action)
        turns.append(Turn(action, text))
        visit.read(action, text)
        seen += [name for name in visit.names if name not in seen and name not in _NO_THINGS]
        if over:
            break
    return Walk(task, turns)


def tell(walked: Walk, settings: Mapping[str, Any], rng: random.Random) -> Conversation:
    """Write down a walk with thoughts and exercises.

    Args:
        walked: what was done.
        settings: `questions` (exercises after an observation at most) and `renamed` (share of the episodes with made-up
            names and numbers).
        rng: of all draws.
    """
    renamed = rng.random() < settings["renamed"]
    if renamed:
        walked = _renamed(walked, rng)
    visit = Visit(walked.task, facts=not renamed)
    messages = Conversation()
    messages += [("system", DEFINITION.instruction), ("user", walked.task)]
    talkative = rng.choice((0.2, 0.6, 1.0))
    messages.ask(draw(visit, rng) for _ in range(rng.randint(0, 3)))
    for action, text in walked.turns:
        thought = _thought(visit, action, rng) if rng.random() < talkative else ""
        messages += [("assistant", render_reply(thought, action)), ("user", text)]
        visit.read(action, text)
        most = settings["questions"] if action == "look around" else 2
        messages.ask(draw(visit, rng) for _ in range(rng.randint(0, most)))
    messages.ask(draw(visit, rng) for _ in range(rng.randint(1, settings["questions"])))
    return messages


def _thought(visit: Visit, action: str, rng: random.Random) -> str:
    """Ask and answer up to three questions, which decide nothing; or say what the action does."""
    asked = dict.fromkeys(remark(visit, rng) for _ in range(rng.randint(0, 3)))
    return " ".join(asked) or f"I {action}."


def _choose(visit: Visit, taste: Mapping[str, float], seen: Sequence[str], rng: random.Random) -> str:
    """Draw an action: a kind by taste, then one of that kind."""
    possible = _possible(visit, seen, rng)
    weights = [_CURIOUS if kind == "look" and not visit.listing else taste[kind] for kind in possible]
    return possible[rng.choices(list(possible), weights)[0]]


def _possible(visit: Visit, seen: Sequence[str], rng: random.Random) -> dict[str, str]:
    """Return an action of each kind that what was read allows."""

    def one(of: Sequence[str]) -> str:
        caught = [name for name in of if name in visit.task]
        return rng.choice(caught if caught and rng.random() < _CAUGHT else of)

    def thing(of: Sequence[str]) -> str:
        return rng.choice(seen) if seen and rng.random() < _SLIP else one(of)

    found = {
        "look": "look around",
        "teleport": f"teleport to {one([room for room in ROOMS if room != visit.room])}",
        "wait": "wait1",
        "inventory": "inventory",
    }
    names = [name for name in visit.names if name not in _NO_THINGS]
    around = [*names, *(name for name in visit.held if name not in names)]
    if not around:
        return found
    vessels = _vessels(visit)
    goals = [name for name in names if name in {part.within for part in visit.things} or name.endswith(" box")]
    found["focus"] = f"focus on {thing(around)}"
    found["inspect"] = f"look {rng.choice(('at', 'in'))} {thing(around)}"
    if names:
        found["pick up"] = f"pick up {thing(names)}"
        found["switch"] = f"{rng.choice(('open', 'close', 'activate', 'deactivate'))} {thing(names)}"
    if goals:
        found["move"] = f"move {thing(visit.held or names)} to {thing(goals)}"
    if "thermometer" in around:
        found["use"] = f"use thermometer on {thing(around)}"
    if vessels:
        found["pour"] = f"pour {thing(vessels)} in {thing([*vessels, *goals])}"
        found["mix"] = f"mix {thing(vessels)}"
    if "circuit" in visit.task and (wires := [name for name in names if name.endswith(" wire")]):
        found["connect"] = f"connect {one(_poles(names) or wires)} to {one(wires)} terminal {rng.choice((1, 2))}"
    return found


_NO_THINGS = frozenset(("agent", "air", "drain", "ground", "white pillow"))
"""Names in lists that actions do not reach by this name, or of what is everywhere."""


def _vessels(visit: Visit) -> list[str]:
    """Return vessels as actions name them, by what is in them ("cup containing red paint"), where that is one alone."""
    contents = {
        thing.name: [part.name for part in visit.things if part.within == thing.name] for thing in visit.things
    }
    several = [
        f"{thing.name.split()[-1]} containing {' and '.join(contents[thing.name]) or 'nothing'}"
        for thing in visit.things
        if thing.name.split()[-1] in ("bowl", "cup", "jar", "jug") and (thing.empty or contents[thing.name])
    ]
    return [vessel for vessel in several if several.count(vessel) == 1]


def _poles(names: Iterable[str]) -> list[str]:
    """Return the poles of what runs on electricity or gives it."""
    parts = [name for name in names if re.search(r"battery|bulb|motor|buzzer|generator|solar panel", name)]
    return [f"{pole} in {part}" for part in parts for pole in ("anode", "cathode")]


_KEPT = frozenset((
    "adult", "agent", "air", "animal", "animals", "around", "art", "baby", "bathroom", "battery", "bedroom", "box",
    "caterpillar", "containing", "cup", "door", "egg", "flower", "foundry", "greenhouse", "hallway", "hatchling",
    "juvenile", "kitchen", "larva", "living", "nothing", "outside", "plant", "pot", "pupa", "room", "stage", "studio",
    "substance", "tadpole", "the", "thing", "thermometer", "tree", "unknown", "wire", "workshop",
))  # fmt: skip
"""Words that mean the same whatever things are called."""


def _renamed(walked: Walk, rng: random.Random) -> Walk:
    """Put made-up words in the place of some that name things, and other degrees in the place of the real ones.

    Who reads it must copy them as they stand: what is in other tasks is in no corpus.
    """
    texts = [walked.task, *chain.from_iterable(walked.turns)]
    visit, words = Visit(walked.task), dict[str, None]()
    for action, text in walked.turns:
        visit.read(action, text)
        words |= dict.fromkeys(word for thing in visit.things for word in re.findall(r"[a-z]{3,}", thing.name))
    chosen = [word for word in words if word not in _KEPT and rng.random() < 0.5]
    if chosen:
        texts = [*map(Renaming(re.compile(rf"\b(?:{'|'.join(chosen)})\b", re.I), lambda: made_up_word(rng)), texts)]
    degrees = Renaming(_DEGREES, lambda: str(rng.randint(-100, 300)))
    task, *rest = map(degrees, texts)
    return Walk(task, [Turn(*turn) for turn in zip(rest[::2], rest[1::2], strict=True)])


_DEGREES = re.compile(r"(?<=above )-?\d+(?=\.0 degrees)|(?<=below )-?\d+(?=\.0 degrees)|(?<=temperature of )-?\d+")


def conversations(specs: Sequence[tuple[int, TaskSpec]], settings: Mapping[str, Any], seed: int) -> list[Conversation]:
    """Walk through numbered tasks and tell each walk `tellings` times."""
    found = []
    for number, spec in specs:
        walked = walk(_env(), spec, settings["max_steps"], random.Random(derive_seed(seed, "walk", number)))
        for telling in range(settings["tellings"]):
            found.append(tell(walked, settings, random.Random(derive_seed(seed, "telling", number, telling))))
    return found


def schedule(walks: int, seed: int) -> list[tuple[int, TaskSpec]]:
    """Number the tasks of a corpus: as many walks in each type, through all of its tasks before one comes again."""
    by_type: dict[str, list[TaskSpec]] = {}
    for spec in specs():
        by_type.setdefault(spec.category, []).append(spec)
    chosen = []
    for name, several in by_type.items():
        rng = random.Random(derive_seed(seed, "tasks", name))
        orders = chain.from_iterable(rng.sample(several, len(several)) for _ in range(walks // len(several) + 1))
        chosen.append([spec for spec, _ in zip(orders, range(walks), strict=False)])
    return list(enumerate(chain.from_iterable(zip(*chosen, strict=True))))


@cache
def _env() -> SciworldEnv:
    """Return this process's own simulator."""
    return SciworldEnv({})


def _told(settings: Mapping[str, Any], seed: int) -> Iterator[list[Conversation]]:
    """Yield the conversations of a corpus in the order of its schedule, made by `processes` simulators."""
    tasks = schedule(settings["walks"], seed)
    pieces = [tasks[start : start + _PIECE] for start in range(0, len(tasks), _PIECE)]
    with ProcessPoolExecutor(settings["processes"], get_context("spawn")) as pool:
        yield from pool.map(partial(conversations, settings=settings, seed=seed), pieces)


_PIECE = 20
"""Walks that a process is given at a time."""


def main() -> None:
    """Write the corpus, one conversation a line."""
    params = yaml.safe_load(Path("pretrain/params.yaml").read_text())["sciworld"]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    temporary, count = OUT.with_suffix(".tmp"), 0
    with temporary.open("w") as out:
        for several in _told(params["corpus"], params["seed"]):
            out.writelines(json.dumps(messages) + "\n" for messages in several)
            count += len(several)
            logger.info("conversations=%d", count)
    temporary.replace(OUT)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
