"""Write the base model's corpus: random play in training games, with questions about it, and recall sequences.

    python -m pretrain.corpus

No action of the expert is in it. The random player has no goal: it prefers some verbs and places it has not seen, drawn
anew for each episode.
"""

from __future__ import annotations

import itertools
import json
import logging
import multiprocessing
import random
import re
from pathlib import Path
from typing import Any

import yaml

from pretrain.recall import Notes, recall_conversation, with_reading_questions
from qlass.envs.alfworld import DEFINITION, adapter, panels
from qlass.envs.alfworld.goals import parse_goal
from qlass.prompts import render_reply
from qlass.records import TaskSpec
from qlass.seeds import derive_seed

logger = logging.getLogger(__name__)

OUT = Path("pretrain/data/corpus.jsonl")


def _choose(actions: tuple[str, ...], notes: Notes, taste: dict[str, float], rng: random.Random) -> str:
    """Draw an action: the verb by the episode's taste, then one of its actions, new places first as often as liked."""
    by_verb: dict[str, list[str]] = {}
    for action in actions:
        by_verb.setdefault(action.split()[0], []).append(action)
    verbs = sorted(by_verb)
    verb = rng.choices(verbs, [taste.get(verb, 1.0) for verb in verbs])[0]
    options = by_verb[verb]
    if verb == "go" and rng.random() < taste["curious"]:
        options = [option for option in options if option[6:] not in notes.visited] or options
    return rng.choice(options)


def _slip(actions: tuple[str, ...], notes: Notes, rng: random.Random) -> str:
    """Make up an action that looks possible and is not: what is not there, where one is not, or already done.

    Most are one name away from what is possible. A player that only slips grossly never makes its reader compare the
    action with what was read, and the reader then believes every well-formed `take`.
    """
    # A full hand takes nothing, whatever it is told to: hardly anything to learn.
    weights = (0.4, 3, 4, 1) if notes.held else (5, 3, 0.4, 1)
    for _ in range(20):
        action = rng.choices((_wrong_take, _wrong_go, _wrong_move, _wrong_use), weights)[0](notes, rng)
        if action not in actions:
            return action
    return "look"


def _other_number(thing: str, rng: random.Random) -> str:
    return f"{thing.split(maxsplit=1)[0]} {rng.randint(1, 4)}"


def _known(notes: Notes) -> list[str]:
    return [thing for found in notes.contents.values() for thing in found] or ["mug 1"]


def _wrong_take(notes: Notes, rng: random.Random) -> str:
    """Take what lies elsewhere, what has another number, what the task needs, or from where one is not."""
    here = notes.contents.get(notes.here) or _known(notes)
    thing = rng.choice(
        (
            _other_number(rng.choice(here), rng),
            _other_number(rng.choice(here), rng),
            rng.choice(_known(notes)),
            f"{parse_goal(notes.observation).target} {rng.randint(1, 2)}",
        )
    )
    return f"take {thing} from {notes.here if rng.random() < 0.85 else rng.choice(notes.places)}"


def _wrong_move(notes: Notes, rng: random.Random) -> str:
    """Put down what is not held, where one is not, or where it is closed or does not belong."""
    held = notes.held or rng.choice(_known(notes))
    thing = rng.choice((held, held, _other_number(held, rng), rng.choice(_known(notes))))
    return f"move {thing} to {notes.here if thing != held or rng.random() < 0.5 else rng.choice(notes.places)}"


def _wrong_go(notes: Notes, rng: random.Random) -> str:
    """Go where one is, or to a place that the room does not have."""
    kind = rng.choice(notes.places).split()[0]
    beyond = sum(place.split()[0] == kind for place in notes.places) + rng.randint(1, 2)
    return f"go to {rng.choice((notes.here, f'{kind} {beyond}'))}"


def _wrong_use(notes: Notes, rng: random.Random) -> str:
    """Open, treat or use something at random."""
    thing = rng.choice((notes.held or "mug 1", rng.choice(_known(notes))))
    treat, tool = rng.choice((("clean", "sinkbasin"), ("heat", "microwave"), ("cool", "fridge")))
    return rng.choice((f"open {rng.choice(notes.places)}", f"{treat} {thing} with {tool} 1", f"use {thing}"))


def _thought(action: str, rng: random.Random) -> str:
    """Say what the action does, in one of a few plain ways, or nothing."""
    say = {
        "go": "I go to ",
        "take": "I take ",
        "open": "I open ",
        "move": "I put ",
        "use": "I use ",
        "examine": "I examine ",
    }
    verb, _, rest = action.partition(" ")
    if verb not in say:
        return "I look around." if verb == "look" else ""
    return rng.choice((f"{say[verb]}{rest.removeprefix('to ')}.", f"Next is {rest.removeprefix('to ')}.", ""))


def play(env: adapter.AlfworldEnv, spec: TaskSpec, rng: random.Random, max_steps: int) -> list[tuple[str, str]]:
    """Play one episode at random and return it as chat messages, questions included."""
    observation, info = env.reset(spec)
    notes = Notes(observation)
    messages = [("system", DEFINITION.instruction), ("user", observation)]
    taste = {"go": 6.0, "open": 4.0, "take": 5.0, "close": 0.2, "look": 0.1, "inventory": 0.1, "examine": 0.3}
    taste |= {verb: weight * rng.uniform(0.3, 1.7) for verb, weight in taste.items()}
    taste["curious"] = rng.random()
    talkative, asking = rng.random() < 0.6, rng.random() < 0.5
    clumsy = rng.choice((0.05, 0.2, 0.35))
    for _ in range(rng.randint(8, max_steps)):
        possible = info["admissible_actions"]
        if asking and rng.random() < 0.3:
            real = rng.random() < 0.5
            asked = _choose(possible, notes, taste, rng) if real else _slip(possible, notes, rng)
            messages += [("user", f"Can you {asked}?"), ("assistant", "yes" if asked in possible else "no")]
        # What is refused teaches as much as what is done: "Nothing happens." follows.
        slips = rng.random() < clumsy
        action = _slip(possible, notes, rng) if slips else _choose(possible, notes, taste, rng)
        observation, _, terminated, _, info = env.step(action)
        notes.read(action, observation)
        messages.append(("assistant", render_reply(_thought(action, rng) if talkative else "", action)))
        messages.append(("user", observation))
        if asking and rng.random() < 0.25:
            question, answer = notes.question(rng)
            messages += [("user", question), ("assistant", answer)]
        if terminated:
            break
    for _ in range(rng.randint(2, 6)):
        question, answer = notes.question(rng)
        messages += [("user", question), ("assistant", answer)]
    return with_reading_questions(messages, rng)


def play_game(job: tuple[TaskSpec, dict[str, Any], int]) -> list[list[tuple[str, str]]]:
    """Play all episodes of one game (in a worker process that keeps its engine)."""
    spec, settings, seed = job
    env = _ENGINE.setdefault("env", adapter.AlfworldEnv({"admissible": True}))
    rngs = (random.Random(derive_seed(seed, spec.task_id, number)) for number in range(settings["episodes_per_game"]))
    return [play(env, spec, rng, settings["max_steps"]) for rng in rngs]


_ENGINE: dict[str, adapter.AlfworldEnv] = {}


def main() -> None:
    """Write the corpus, one conversation a line."""
    params = yaml.safe_load(Path("pretrain/params.yaml").read_text())
    settings, seed = params["corpus"], params["seed"]
    specs = list(itertools.islice(panels.panels({}, "train", seed), settings["games"]))
    OUT.parent.mkdir(parents=True, exist_ok=True)
    temporary = OUT.with_suffix(".tmp")
    names: set[str] = set()
    with temporary.open("w") as out, multiprocessing.get_context("spawn").Pool(2) as pool:
        jobs = [(spec, settings, seed) for spec in specs]
        for done, episodes in enumerate(pool.imap(play_game, jobs)):
            for messages in episodes:
                names.update(re.findall(r"[a-z]+ \d+", messages[1][1] + messages[3][1]))
                out.write(json.dumps(messages) + "\n")
            if done % 50 == 0:
                logger.info("games=%d", done)
        rng = random.Random(derive_seed(seed, "recall"))
        for _ in range(settings["recall"]):
            out.write(json.dumps(recall_conversation(sorted(names), rng)) + "\n")
    temporary.replace(OUT)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
