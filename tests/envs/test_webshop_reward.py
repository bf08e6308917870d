"""WebShop's reward: tables of its rules with their leniencies, and properties that hold for any goal."""

from __future__ import annotations

import random
from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

pytest.importorskip("rapidfuzz")

from qlass.envs.webshop import nouns
from qlass.envs.webshop.catalogue import Catalogue, Product
from qlass.envs.webshop.goals import Goal, human_goals, synthetic_goals
from qlass.envs.webshop.reward import COLORS, matches, normalize_color, reward
from qlass.errors import SettingsError
from tests.envs import tinyshop
from tests.envs.tinyshop import LAMP, MUG, NOUNS, SCARF, VASE

PRODUCTS = tinyshop.catalogue().by_asin
GOALS = synthetic_goals(tinyshop.catalogue())
HUMAN = {goal.asin: goal for goal in human_goals(tinyshop.catalogue())}
MUG_GOAL = next(goal for goal in GOALS if goal.option_values == ("navy blue", "large | wide"))
ALL = {"color": "navy blue", "size": "large | wide"}


@pytest.mark.parametrize(
    ("option", "expected"),
    [
        ("navy blue", "blue"),  # alphabetical: blue comes first
        ("standard", "tan"),
        ("titanium", "tan"),
        ("colored", "red"),
        ("large", "large"),
        ("", ""),
        (("color", "navy blue"), ("color", "navy blue")),  # a pair has it only where it is the whole value
        (("color", "blue"), "blue"),
        (("red", "12"), "red"),
    ],
)
def test_normalize_color(option, expected):
    assert normalize_color(option) == expected


def test_there_are_102_colour_words():
    assert len(set(COLORS)) == 102
    assert list(COLORS) == sorted(COLORS)


@pytest.mark.parametrize(
    ("left", "right", "expected"),
    [
        ("large", "x-large", True),  # a subset of the words
        ("x-large", "xx-large", True),
        ("4 piece set", "6 piece set", True),
        ("small", "large", False),
        ("large", ("size", "large"), True),  # a pair is compared as Python writes it
        ("12", ("size", "large"), False),
        ("caf\u00e9 latte", "caf latte", True),  # \u00e9 is deleted
        ("\u00e9", "\u00e9", False),
        ("", "", False),
        ("!!", "!!", False),
    ],
)
def test_matches(left, right, expected):
    assert matches(left, right) is expected
    assert matches(right, left) is expected


@pytest.mark.parametrize(
    ("options", "n_options", "total"),
    [
        (ALL, 2, 1.0),
        ({"color": "navy blue"}, 1, 4 / 5),
        ({}, 0, 3 / 5),
        ({"color": "sand", "size": "sand"}, 0, 3 / 5),
        ({"any": "large | wide", "name": "navy blue"}, 2, 1.0),  # names of groups do not matter
    ],
)
def test_options(options, n_options, total):
    found = reward(MUG_GOAL, PRODUCTS[MUG], options, NOUNS)
    assert (found.n_attributes, found.n_options, found.r_price, found.r_type) == (2, n_options, True, 1.0)
    assert found.total == total


def test_one_choice_can_count_for_two_options():
    goal = replace(HUMAN[MUG], options=("blue", "navy blue"))
    assert reward(goal, PRODUCTS[MUG], {"color": "navy"}, NOUNS).n_options == 0
    assert reward(goal, PRODUCTS[MUG], {"color": "deep blue"}, NOUNS).n_options == 2


@pytest.mark.parametrize(
    ("attribute", "product", "expected"),
    [
        ("lead free", MUG, 1),  # of the hidden ones
        ("safe dishwasher", MUG, 1),  # in any order of the words
        ("easy to hold", MUG, 1),  # in the bullets
        ("solid  easy", MUG, 1),  # over the border of two bullets, one of them empty
        ("stoneware mug", MUG, 1),  # in the title
        ("small lots", MUG, 1),  # in the description
        ("Stoneware", MUG, 0),  # texts are in lower case, attributes as they are
        ("machine washable", MUG, 0),
        ("dummy", VASE, 1),  # what a product without a record has
    ],
)
def test_attributes(attribute, product, expected):
    goal = replace(HUMAN[MUG], attributes=(attribute,))
    assert reward(goal, PRODUCTS[product], {}, NOUNS).n_attributes == expected


@pytest.mark.parametrize(("cap", "expected"), [(8.5, True), (8.49, False), (1_000_000, True)])
def test_price(cap, expected):
    assert reward(replace(MUG_GOAL, price_upper=cap), PRODUCTS[MUG], ALL, NOUNS).r_price is expected


@pytest.mark.parametrize(
    ("title", "query", "path", "r_type", "title_score"),
    [
        ("Harbor Stoneware Mug", "other", "Other", 1.0, 1.0),
        ("Stoneware Vase", "other", "Other", 1.0, 1 / 3),  # more than 0.2 of the nouns
        ("Candle", "coffee mugs", "Home › Kitchen › Mugs", 0.0, 0.0),  # no noun: nothing, whatever else fits
        ("Nothing", "other", "Other", 0.0, 0.0),
    ],
)
def test_type_of_product(title, query, path, r_type, title_score):
    bought = replace(PRODUCTS[MUG], title=title, query=query, product_category=path)
    found = reward(MUG_GOAL, bought, ALL, NOUNS)
    assert (found.r_type, found.title_score) == (r_type, title_score)
    assert found.query_match is (query == "coffee mugs")
    assert found.category_match is (path == "Home › Kitchen › Mugs")


@pytest.mark.parametrize(
    ("shared", "wanted", "query", "path", "r_type"),
    [
        (2, 10, "other", "Other", 0.5),  # 0.2 is not more than 0.2
        (2, 10, "mugs", "Other", 1.0),
        (2, 10, "other", "x › Home › Kitchen", 1.0),
        (2, 10, "other", "Home › x", 0.5),
        (1, 10, "mugs", "Other", 1.0),  # 0.1 is not less than 0.1
        (1, 11, "mugs", "Home › Kitchen", 0.1),
        (0, 11, "mugs", "Home › Kitchen", 0.0),
        (0, 0, "other", "Other", 0.5),  # no noun wanted counts as 0.2
    ],
)
def test_type_at_its_borders(shared, wanted, query, path, r_type):
    nouns_of = {"bought": tuple(f"n{i}" for i in range(shared)), "wanted": tuple(f"n{i}" for i in range(wanted))}
    goal = replace(MUG_GOAL, title="wanted", query="mugs", product_category="Home › Kitchen › Mugs")
    bought = replace(PRODUCTS[MUG], title="bought", query=query, product_category=path)
    assert reward(goal, bought, ALL, nouns.Nouns("table", nouns_of.__getitem__)).r_type == r_type


def test_repeated_nouns_stay_in_the_denominator():
    goal = replace(MUG_GOAL, title="mug mug mug")
    assert reward(goal, replace(PRODUCTS[MUG], title="mug"), ALL, NOUNS).title_score == 1 / 3


WORD_LIST = "red navy blue small large x-large 12 oz pack of 1 soft cotton steel round easy clean"
WORDS = st.sampled_from(WORD_LIST.split())
TEXTS = st.lists(WORDS, min_size=1, max_size=4).map(" ".join)
CHOICES = st.dictionaries(st.sampled_from(["color", "size", "style"]), TEXTS, max_size=3)


@st.composite
def products(draw: st.DrawFn) -> Product:
    """Draw a product with any texts."""
    return replace(
        PRODUCTS[draw(st.sampled_from([MUG, LAMP, SCARF, VASE]))],
        title=draw(TEXTS),
        bullets=tuple(draw(st.lists(TEXTS, max_size=3))),
        description=draw(st.just("") | TEXTS),
        attributes=tuple(draw(st.lists(TEXTS, max_size=4))),
        price=draw(st.floats(0, 2000)),
    )


@st.composite
def goals(draw: st.DrawFn) -> Goal:
    """Draw a goal of either style with any wishes."""
    chosen = draw(CHOICES)
    target = draw(products())
    return Goal(
        asin=target.asin,
        category=target.category,
        query=target.query,
        title=target.title,
        product_category=target.product_category,
        instruction="buy it",
        attributes=tuple(draw(st.lists(TEXTS, min_size=1, max_size=4))),
        price_upper=draw(st.sampled_from([10.0, 500.0, 1_000_000])),
        options=tuple(chosen.items()) if draw(st.booleans()) else tuple(chosen.values()),
        weight=1.0,
    )


RULE = nouns.rule()


@given(goals(), products(), CHOICES)
def test_it_is_in_range_and_adds_up(goal, product, chosen):
    found = reward(goal, product, chosen, RULE)
    assert 0.0 <= found.total <= 1.0
    met = found.n_attributes + found.n_options + found.r_price
    assert found.total == met / (len(goal.attributes) + len(goal.options) + 1) * found.r_type
    assert (found.total == 1.0) == (
        found.r_type == 1.0
        and found.r_price
        and (found.n_attributes, found.n_options) == (len(goal.attributes), len(goal.options))
    )


@given(goals(), products(), CHOICES, st.randoms(use_true_random=False))
def test_the_order_of_purchased_options_does_not_matter(goal, product, chosen, rng):
    shuffled = list(chosen.items())
    rng.shuffle(shuffled)
    assert reward(goal, product, dict(shuffled), RULE) == reward(goal, product, chosen, RULE)
    renamed = {f"other {name}": value for name, value in chosen.items()}
    assert reward(goal, product, renamed, RULE) == reward(goal, product, chosen, RULE)


@given(goals(), products(), CHOICES, st.data())
def test_another_option_never_costs_anything(goal, product, chosen, data):
    less = dict(data.draw(st.lists(st.sampled_from(sorted(chosen.items())), unique=True)) if chosen else ())
    assert reward(goal, product, less, RULE).total <= reward(goal, product, chosen, RULE).total


@given(goals(), products(), CHOICES)
def test_a_wish_that_is_met_never_lowers_what_is_met(goal, product, chosen):
    title = reward(goal, product, chosen, RULE)
    more = replace(goal, attributes=(*goal.attributes, product.title))
    found = reward(more, product, chosen, RULE)
    assert found.n_attributes == title.n_attributes + 1
    assert found.total >= title.total


@settings(max_examples=60)
@given(products(), st.integers(0, 2**20))
def test_the_target_with_its_options_is_worth_one(product, seed):
    rng = random.Random(seed)
    groups = {"size": ["small", "large", "12 oz"], "color": ["red", "blue"]}
    record = tinyshop.item(
        "T",
        f"mug {product.title}",
        small_description=list(product.bullets),
        pricing=f"${rng.randrange(1, 900)}.00",
        customization_options={name: tinyshop.values(*texts) for name, texts in groups.items()},
    )
    wishes = {"attributes": ["easy clean"], "instruction": "Find me", "instruction_attributes": ["easy clean"]}
    catalogue = Catalogue.of([record], {"T": wishes}, seed=seed)
    for goal in synthetic_goals(catalogue):
        for chosen in (dict(goal.options), dict(reversed(goal.options))):
            assert reward(goal, catalogue.products[0], chosen, NOUNS).total == 1.0
            assert reward(replace(goal, options=goal.option_values), catalogue.products[0], chosen, NOUNS).total == 1.0


def test_nouns_by_lexicon_and_by_rule():
    assert NOUNS.kind == "lexicon"
    assert NOUNS.of("Mug, Wool-free MUG & Vase") == ("mug", "mug", "vase")
    assert RULE.kind == "rule"
    assert RULE.of("The Washable 12 oz Mug for Women's Coffee") == ("oz", "mug", "women's", "coffee")


def test_nouns_without_spacy(monkeypatch):
    monkeypatch.setattr(nouns, "find_spec", lambda name: None)
    assert nouns.extractor().kind == "rule"
    assert nouns.extractor("rule").kind == "rule"
    with pytest.raises(SettingsError, match="none of en_core_web_lg, en_core_web_sm is installed"):
        nouns.extractor("spacy")
    with pytest.raises(SettingsError, match="nouns is 'nltk'; allowed are null, spacy, rule"):
        nouns.extractor("nltk")
