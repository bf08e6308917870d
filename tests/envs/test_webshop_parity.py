"""WebShop against the original: goals, prices, rankings and whole episodes that it gave, to the last character.

The data belongs to others and is no part of this project: these tests read the folder that QLASS_WEBSHOP_REFERENCE names
(README.md there) and are skipped where it is not set.
"""

import gzip
import json
import os
import random
import re
from pathlib import Path

import pytest

pytest.importorskip("rapidfuzz")
pytest.importorskip("snowballstemmer")

from qlass.envs.webshop.catalogue import load
from qlass.envs.webshop.goals import human_goals, synthetic_goals
from qlass.envs.webshop.nouns import Nouns
from qlass.envs.webshop.pages import Pages
from qlass.envs.webshop.reward import reward
from qlass.envs.webshop.state import Rules, Shop, State

FOLDER = Path(os.environ.get("QLASS_WEBSHOP_REFERENCE", ""))
pytestmark = pytest.mark.skipif(
    "QLASS_WEBSHOP_REFERENCE" not in os.environ,
    reason="QLASS_WEBSHOP_REFERENCE names no folder with the original's data",
)
LETTERS = Nouns("letters", lambda title: tuple(re.findall(r"\w*[^\W\d_]\w*", title.lower())))
"""The rule of the recorded run: every token with a letter counts as a noun."""


@pytest.fixture(scope="module")
def catalogue():
    """Return the products of the recorded run, with its prices."""
    rng = random.Random(2026)
    rng.getrandbits(32)  # upstream's first line of output draws one word (rich), before the products are loaded
    names = ("items_shuffle_1000.json", "items_ins_v2_1000.json", "items_human_ins.part.json")
    return load(*(FOLDER / name for name in names), seed=rng)


@pytest.fixture(scope="module")
def shop(catalogue):
    """Return the shop as upstream has it: searching goes on after buying, hidden commands work."""
    return Shop(catalogue, synthetic_goals(catalogue), LETTERS, Rules(hidden_commands=True, locked=False))


def read(name):
    return json.loads((FOLDER / name).read_text(encoding="utf-8"))


def test_prices(catalogue):
    assert {product.asin: product.price for product in catalogue.products} == read("product_prices_pyseed2026.json")


def test_goals_with_their_order_caps_and_weights(shop):
    with gzip.open(FOLDER / "goals_synthetic_6910_pyseed2026.json.gz", "rt", encoding="utf-8") as file:
        expected = json.load(file)
    assert len(expected) == 6910
    assert [
        {
            "asin": goal.asin,
            "category": goal.category,
            "query": goal.query,
            "name": goal.title,
            "product_category": goal.product_category,
            "instruction_text": goal.instruction,
            "attributes": list(goal.attributes),
            "price_upper": goal.price_upper,
            "goal_options": dict(goal.options),
            "weight": goal.weight,
        }
        for goal in shop.goals
    ] == expected


def test_human_goals(catalogue):
    goals = human_goals(catalogue)
    written = [entry for entries in read("items_human_ins.part.json").values() for entry in entries]
    known = {product.asin for product in catalogue.products}
    assert len(goals) == sum(entry["asin"] in known and bool(entry["instruction_attributes"]) for entry in written) > 0
    for goal in goals:
        text, _, _ = goal.instruction.partition(", and price lower than ")
        assert any(
            (entry["instruction"].strip("."), tuple(entry["instruction_options"])) == (text, goal.options)
            for entry in written
        )


@pytest.mark.parametrize("kind", ["instr", "humanq", "humaninstr", "title"])
def test_rankings_of_lucene(shop, kind):
    queries = read("lucene_reference_1k.json")[kind]
    assert queries
    for query in queries:
        hits = shop.index.search(query["q"])
        assert [hit.name for hit in hits] == [asin for asin, _ in query["top50"]], query["q"]
        scores = [score for _, score in query["top50"]]  # printed with four decimals
        assert [hit.score for hit in hits] == pytest.approx(scores, abs=1e-4, rel=0), query["q"]


def episodes():
    if "QLASS_WEBSHOP_REFERENCE" not in os.environ:
        return []
    lines = (FOLDER / "golden_traces.jsonl").read_text(encoding="utf-8").splitlines()
    return [pytest.param(json.loads(line), id=f"episode {number}") for number, line in enumerate(lines)]


@pytest.mark.parametrize("episode", episodes())
def test_every_step_of_an_episode(shop, episode):
    pages, state = Pages(shop, episode["mode"]), State(episode["goal_idx"])
    for step in episode["steps"]:
        earned, ended = 0.0, False
        if "action" in step:
            following = shop.apply(state, step["action"])
            if following is not None:
                state = following
                ended = state.place == "done"
                earned = state.reward if ended else 0.0
        assert pages.render(state) == step["obs"], step.get("action")
        clickables = list(shop.targets(state))
        assert {"has_search_bar": state.place == "index", "clickables": clickables} == step["av"], step.get("action")
        assert (earned, ended) == (step.get("reward", 0.0), step.get("done", False)), step.get("action")


def test_targets_with_their_options_are_worth_one_as_often_as_upstream(shop):
    first = {goal.asin: goal for goal in reversed(shop.goals)}.values()
    totals = [reward(goal, shop.product(goal.asin), dict(goal.options), LETTERS).total for goal in first]
    assert len(totals) == 415
    assert sum(total == 1.0 for total in totals) / len(totals) == pytest.approx(0.990, abs=5e-4)
