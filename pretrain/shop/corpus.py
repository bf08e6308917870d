"""Write the shop reader's corpus: random play in generated shops, with exercises about it, and lists to repeat.

    python -m pretrain.shop.corpus

No action of the expert is in it, and nothing here knows what a good one is. The player has no goal: it searches for
words that it finds in the instruction or on the page, and clicks what the page offers, with a taste of its own for
kinds of clicks, drawn anew for each episode.
"""

from __future__ import annotations

import json
import logging
import random
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import yaml

from pretrain.conversations import Conversation, Renaming, made_up_word
from pretrain.shop.exercises import draw, remark
from pretrain.shop.recall import made_up_id, recall_conversation
from pretrain.shop.world import Visit, Wanted, World, open_world
from qlass.envs.webshop import DEFINITION
from qlass.envs.webshop.adapter import normalise_action
from qlass.envs.webshop.state import BACK, BUY, NEXT, PREVIOUS, SEARCH, State
from qlass.prompts import render_reply
from qlass.seeds import derive_seed

logger = logging.getLogger(__name__)

OUT = Path("pretrain/data/shop/corpus.jsonl")

_TASTE = {
    "product": 8.0,
    "option": 6.0,
    "Features": 4.0,
    "Description": 1.5,
    "Reviews": 0.2,
    PREVIOUS: 3.0,
    NEXT: 1.0,
    BACK: 0.6,
    BUY: 0.4,
    SEARCH: 1.0,
}
"""How gladly a random player does what, on average."""
_BUTTONS = {name.lower(): name for name in _TASTE}


def play(world: World, goal: int, settings: dict[str, Any], rng: random.Random) -> Conversation:
    """Play one episode at random, then tell it with exercises after its pages.

    The player ignores what its instruction asks for, so another instruction is as good: most episodes are told with one
    for a product, or a kind of product, that the player met. Otherwise hardly any answer would be yes.

    Args:
        world: the shop.
        goal: number of the goal whose instruction the player reads.
        settings: `max_steps` (actions at most), `questions` (exercises after a page at most), `new_ids` (whether the
            episode has made-up ids) and `renamed` (share of the episodes in which words of the instruction are).
        rng: of all draws.
    """
    actions, asins = _walk(Visit(world, State(goal)), rng.randint(3, settings["max_steps"]), rng)
    if asins and rng.random() < _RETOLD:
        goal = _goal_about(world, rng.choice(asins), rng)
    told = _tell(Visit(world, State(goal)), actions, settings["questions"], rng)
    if settings["new_ids"]:
        _put(told, re.compile(ID), lambda: made_up_id(rng))
    if rng.random() < settings["renamed"]:
        _rename(told, world.wanted[goal], rng)
    return told


ID = r"\bB0[0-9A-Z]{8}\b"
"""A product's id, as pages and replies show it."""
_RETOLD = 0.85
"""Share of the episodes that get an instruction for what they met."""


def _walk(visit: Visit, steps: int, rng: random.Random) -> tuple[list[str], list[str]]:
    """Act at random; return the actions and the ids of the products that were opened."""
    visit.read(visit.state)
    taste = {kind: weight * rng.uniform(0.3, 1.7) for kind, weight in _TASTE.items()}
    actions: list[str] = []
    while len(actions) < steps and visit.state.place != "done":
        actions.append(_choose(visit, taste, rng))
        visit.act(actions[-1])
    return actions, visit.opened


def _goal_about(world: World, asin: str, rng: random.Random) -> int:
    """Return a goal for a product, or where there is none for its kind."""
    about = world.goals_of.get(asin) or world.goals_of_kind[world.shop.product(asin).query]
    return rng.choice(about)


def _tell(visit: Visit, actions: list[str], questions: int, rng: random.Random) -> Conversation:
    """Do the actions again and write down what was read, with thoughts and exercises."""
    messages = Conversation()
    messages += [("system", DEFINITION.instruction), ("user", visit.read(visit.state))]
    talkative, curious = rng.choice((0.0, 0.5, 1.0)), rng.choice((0, questions // 2, questions))
    for action in actions:
        most = curious if visit.state.place != "index" else min(curious, 1)
        messages.ask(draw(visit, rng) for _ in range(rng.randint(0, most)))
        thought = _thought(visit, action, rng) if rng.random() < talkative else ""
        messages.append(("assistant", render_reply(thought, action)))
        messages.append(("user", visit.act(action)))
    if visit.state.place != "done":
        messages.ask(draw(visit, rng) for _ in range(rng.randint(1, questions)))
    return messages


def _rename(messages: Conversation, wanted: Wanted, rng: random.Random) -> None:
    """Put made-up words in the place of some that name what is wanted.

    Who reads it must spell them as they stand: what a shop of other products calls its things is in no corpus.
    """
    named = " ".join([wanted.thing, *(one.bare for one in wanted.attributes), *wanted.options])
    words = [word for word in dict.fromkeys(re.findall(r"[a-z]{4,}", named)) if word not in _FIXED]
    chosen = [word for word in words if rng.random() < 0.5] or words[:1]
    if chosen:
        pattern = re.compile(rf"\b(?:{'|'.join(chosen)})\b", re.IGNORECASE)
        _put(messages, pattern, lambda: made_up_word(rng))


def _put(messages: Conversation, pattern: re.Pattern[str], make_up: Callable[[], str]) -> None:
    """Replace what matches throughout a conversation."""
    renaming = Renaming(pattern, make_up)
    messages[1:] = [(role, renaming(text)) for role, text in messages[1:]]


_FIXED = frozenset((
    "back", "buy", "click", "color", "colors", "description", "features", "fit", "flavor", "here", "limit",
    "listed", "next", "none", "option", "options", "page", "pattern", "price", "product", "products",
    "properties", "property", "results", "reviews", "scent", "search", "size", "style", "title", "what", "which",
    "with",
))  # fmt: skip
"""Words of pages, actions and questions, which mean the same in every shop."""


def _choose(visit: Visit, taste: dict[str, float], rng: random.Random) -> str:
    """Draw an action in its normal form: a kind of action by taste, then one of that kind."""
    by_kind: dict[str, list[str]] = {}
    for text, target in visit.world.shop.targets(visit.state).items():
        name = _BUTTONS[text] if target.kind == "button" else target.kind
        by_kind.setdefault(name, []).append(f"click[{text}]")
    # The bar is on its own page; a search is possible everywhere, and rarer there.
    by_kind[SEARCH] = [f"search[{_query(visit, rng)}]"]
    weights = [taste[kind] * (1.0 if kind != SEARCH or visit.state.place == "index" else 0.5) for kind in by_kind]
    return normalise_action(rng.choice(by_kind[rng.choices(list(by_kind), weights)[0]]))


def _query(visit: Visit, rng: random.Random) -> str:
    """Draw words to search for: a piece of the instruction or of the page, or some of their words.

    Most words of an instruction are found nowhere (`i am looking for`), so what finds nothing is mostly drawn again.
    """
    page = visit.world.pages.render(visit.state).partition(visit.goal.instruction)[2]
    for _ in range(5):
        source = visit.goal.instruction if rng.random() < 0.8 else page
        words = re.findall(r"[a-z][a-z'-]+", source.partition(", and price")[0].lower())
        first, count = rng.randrange(len(words)), rng.randint(1, 6)
        scattered = rng.sample(words, min(count, len(words)))
        query = " ".join(words[first : first + count] if rng.random() < 0.6 else scattered)
        if visit.world.shop.hits(tuple(query.split())):
            break
    return query


def _thought(visit: Visit, action: str, rng: random.Random) -> str:
    """Say what the action does in a few plain ways, or remark on what was read, which decides nothing."""
    if rng.random() < 0.6:
        return remark(visit, rng)
    name, _, argument = action[:-1].partition("[")
    verb = "search for" if name == "search" else rng.choice(("click", "press", "try"))
    return rng.choice((f"I {verb} {argument}.", f"Next is {argument}."))


def episodes(settings: dict[str, Any], seed: int, catalogue: int, count: int) -> Iterator[Conversation]:
    """Play `count` episodes in the shop of a catalogue's seed, each with another goal until all were used."""
    world = open_world(settings["size"], catalogue)
    rng = random.Random(derive_seed(seed, "goals", catalogue))
    goals: list[int] = []
    for number in range(count):
        goals = goals or rng.sample(range(len(world.shop.goals)), len(world.shop.goals))
        yield play(world, goals.pop(), settings, random.Random(derive_seed(seed, catalogue, number)))


def words_of(world: World) -> list[str]:
    """Return the words of a shop's titles, values and instructions, sorted."""
    texts = [*(product.document for product in world.shop.catalogue.products)]
    texts += [product.title for product in world.shop.catalogue.products]
    return sorted({word for text in texts for word in re.findall(r"[A-Za-z]+", text)})


def main() -> None:
    """Write the corpus, one conversation a line."""
    params = yaml.safe_load(Path("pretrain/params.yaml").read_text())["shop"]
    settings, seed = params["corpus"], params["seed"]
    OUT.parent.mkdir(parents=True, exist_ok=True)
    temporary = OUT.with_suffix(".tmp")
    with temporary.open("w") as out:
        for catalogue in range(settings["first_seed"], settings["first_seed"] + settings["catalogues"]):
            for messages in episodes(settings, seed, catalogue, settings["episodes"]):
                out.write(json.dumps(messages) + "\n")
            words = words_of(open_world(settings["size"], catalogue))
            rng = random.Random(derive_seed(seed, "recall", catalogue))
            for _ in range(settings["recall"]):
                out.write(json.dumps(recall_conversation(words, rng)) + "\n")
            logger.info("catalogue=%d episodes=%d", catalogue, settings["episodes"])
    temporary.replace(OUT)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
