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

from pretrain.recall import Notes, recall_conversation, with_goal_questions
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
    for _ in range(rng.randint(8, max_steps)):
        action = _choose(info["admissible_actions"], notes, taste, rng)
        if rng.random() < 0.02:
            action = action.replace(" 1", f" {rng.randint(2, 9)}")  # often refused: what "Nothing happens." follows
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
    return with_goal_questions(messages, rng)


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
    nouns: set[str] = set()
    with temporary.open("w") as out, multiprocessing.get_context("spawn").Pool(2) as pool:
        jobs = [(spec, settings, seed) for spec in specs]
        for done, episodes in enumerate(pool.imap(play_game, jobs)):
            for messages in episodes:
                nouns.update(re.findall(r"([a-z]+) \d+", messages[1][1] + messages[-1][1] + messages[3][1]))
                out.write(json.dumps(messages) + "\n")
            if done % 50 == 0:
                logger.info("games=%d", done)
        rng = random.Random(derive_seed(seed, "recall"))
        for _ in range(settings["recall"]):
            out.write(json.dumps(recall_conversation(sorted(nouns), rng)) + "\n")
    temporary.replace(OUT)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
