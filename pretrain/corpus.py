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
from qlass.envs.alfworld import adapter, panels
from qlass.prompts import instruction_text, render_reply
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
    """Make up an action that looks possible and is not: what is not there, where one is not, or already done."""
    for _ in range(20):
        place = rng.choice(notes.places)
        kind = place.split()[0]
        things = [thing for found in notes.contents.values() for thing in found] or ["mug 1"]
        thing = rng.choice(
            (rng.choice(things), f"{rng.choice(things).split()[0]} {rng.randint(1, 3)}", notes.held or "mug 1")
        )
        treat, tool = rng.choice((("clean", "sinkbasin"), ("heat", "microwave"), ("cool", "fridge")))
        action = rng.choice(
            (
                f"go to {kind} {sum(other.split()[0] == kind for other in notes.places) + rng.randint(1, 2)}",
                f"go to {(notes.visited or [place])[-1]}",
                f"open {place}",
                f"take {thing} from {(notes.visited or [place])[-1]}",
                f"take {thing} from {place}",
                f"move {thing} to {place}",
                f"{treat} {thing} with {tool} 1",
                f"use {thing}",
            )
        )
        if action not in actions:
            return action
    return "look"


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
    listing, _, goal = observation.partition("Your task is to:")
    notes = Notes(goal.strip(), re.findall(r"[a-z]+ \d+", listing))
    messages = [("system", instruction_text("alfworld")), ("user", observation)]
    taste = {"go": 6.0, "open": 4.0, "take": 3.0, "close": 0.2, "look": 0.1, "inventory": 0.1, "examine": 0.3}
    taste |= {verb: weight * rng.uniform(0.3, 1.7) for verb, weight in taste.items()}
    taste["curious"] = rng.random()
    talkative, asking = rng.random() < 0.6, rng.random() < 0.5
    clumsy = rng.choice((0.02, 0.1, 0.3))
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
