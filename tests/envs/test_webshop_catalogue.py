"""WebShop's products and goals: what is read of the files, and in which order goals are made."""

import json
import random

import pytest

from qlass.envs.webshop.catalogue import Catalogue, load
from qlass.envs.webshop.goals import NO_CAP, human_goals, synthetic_goals
from qlass.errors import DataError
from tests.envs import tinyshop
from tests.envs.tinyshop import HUMAN, INSTRUCTIONS, ITEMS, LAMP, MUG, SCARF, VASE, item


def test_products_are_read_as_upstream_does():
    products = tinyshop.catalogue().by_asin
    assert list(products)[:4] == [MUG, LAMP, SCARF, VASE]
    mug = products[MUG]
    assert mug.title == 'Harbor & Co Stoneware Mug, 4" Tall'  # the first of two equal ids
    assert (mug.price, mug.price_text, mug.query) == (8.5, "$8.5", "coffee mugs")
    assert mug.options == (("color", ("navy blue", "sand")), ("size", ('4" x 3"', "large | wide", "sand")))
    assert mug.bullets == ("dishwasher safe and solid", "", "Easy to hold", "\n")
    assert products[LAMP].bullets == ("warm light",)
    assert (products[LAMP].price, products[LAMP].price_text, products[LAMP].attributes) == (100.0, "$100.0", ())
    assert products[VASE].attributes == ("DUMMY_ATTR",)


def test_a_price_range_is_shown_and_one_price_of_it_counts():
    scarf = tinyshop.catalogue().by_asin[SCARF]
    assert scarf.price_text == "$1012.0 to $1020.0"
    assert scarf.price == random.Random(7).uniform(1012.0, 1020.0)


def test_what_is_searched():
    assert tinyshop.catalogue().by_asin[MUG].document == (
        'harbor & co stoneware mug, 4" tall glazed by hand <in small lots>. lead free. dishwasher safe and solid '
        'color: navy blue, sand, and size: 4" x 3", large | wide, sand'
    )


def test_synthetic_goals_are_all_combinations_of_options():
    goals = synthetic_goals(tinyshop.catalogue())
    mugs = [goal for goal in goals if goal.asin == MUG]
    assert len(mugs) == 6
    assert len(goals) == 7
    first = next(goal for goal in mugs if goal.option_values == ("navy blue", "large | wide"))
    assert first.options == (("color", "navy blue"), ("size", "large | wide"))
    assert first.instruction == (
        "Find me dishwasher safe, lead free coffee mugs with color: navy blue, and size: large | wide, "
        f"and price lower than {first.price_upper:.2f} dollars"
    )
    assert first.weight == pytest.approx(1 / 6)
    assert len({goal.price_upper for goal in mugs}) == 1  # one cap per product


def test_the_order_of_goals_is_upstreams_shuffle():
    numbers = list(range(7))
    random.Random(233).shuffle(numbers)
    made = [(MUG, color, size) for color in ("navy blue", "sand") for size in ('4" x 3"', "large | wide", "sand")]
    ordered = [(goal.asin, *goal.option_values) for goal in synthetic_goals(tinyshop.catalogue())]
    assert ordered == [[*made, (LAMP,)][number] for number in numbers]


def test_goals_of_one_product_can_be_limited():
    products = tinyshop.catalogue()
    few = synthetic_goals(products, per_product=2)
    assert [goal.asin for goal in few].count(MUG) == 2
    assert {(goal.asin, goal.options, goal.price_upper) for goal in few} <= {
        (goal.asin, goal.options, goal.price_upper) for goal in synthetic_goals(products)
    }


def test_human_goals():
    goals = {goal.asin: goal for goal in human_goals(tinyshop.catalogue())}
    assert goals.keys() == {VASE, MUG}
    assert goals[VASE].instruction == "i want a stoneware vase"  # too dear for a cap
    assert goals[VASE].price_upper == NO_CAP
    assert goals[MUG].options == ("navy blue", "large | wide")
    assert goals[MUG].instruction.startswith("a dishwasher safe mug in navy, and price lower than ")
    assert goals[MUG].weight == 1.0


@pytest.mark.parametrize(("price", "caps"), [("$8.50", {20.0, 30.0, 40.0}), ("$10.00", {30.0, 40.0, 50.0}),
                                             ("$970.00", {990.0}), ("$980.00", {NO_CAP}), ("$985.00", {NO_CAP})])  # fmt: skip
def test_caps_are_the_larger_of_two_of_the_next_four_tens(price, caps):
    hidden = {"X": {"attributes": ["a b"], "instruction": "Find me", "instruction_attributes": ["a b"]}}
    found = [
        synthetic_goals(Catalogue.of([item("X", "x", pricing=price)], hidden, seed=seed))[0] for seed in range(60)
    ]
    assert {goal.price_upper for goal in found} == caps
    assert all((", and price lower than " in goal.instruction) == (caps != {NO_CAP}) for goal in found)


def test_equal_seeds_give_equal_shops():
    def made(seed):
        return Catalogue.of(ITEMS, INSTRUCTIONS, HUMAN, seed=seed)

    assert made(3).products == made(3).products
    assert synthetic_goals(made(3)) == synthetic_goals(made(3))
    assert made(3).by_asin[SCARF].price != made(4).by_asin[SCARF].price


def test_an_instruction_without_attributes_is_an_error():
    hidden = {LAMP: {"attributes": [], "instruction": "Find me lamps", "instruction_attributes": []}}
    with pytest.raises(DataError, match=f"{LAMP} has an instruction without attributes"):
        synthetic_goals(Catalogue.of(ITEMS, hidden, seed=0))


@pytest.mark.parametrize("pricing", ["about 5", "$", "$1.2.3", "$5.00 to $"])
def test_a_price_that_is_no_number(pricing):
    with pytest.raises(DataError, match="pricing of X is"):
        Catalogue.of([item("X", "x", pricing=pricing)], {"X": {}}, seed=0)


@pytest.fixture
def files(tmp_path):
    """Write the three files; return their paths."""
    paths = [tmp_path / name for name in ("items.json", "attributes.json", "human.json")]
    for path, content in zip(paths, (ITEMS, INSTRUCTIONS, HUMAN), strict=True):
        path.write_text(json.dumps(content))
    return paths


def test_files_and_values_give_the_same(files):
    assert load(*files, seed=7).products == tinyshop.catalogue().products
    assert load(*files[:2], seed=7).by_asin[MUG].human == ()


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_missing_file(files, number):
    files[number].unlink()
    with pytest.raises(DataError, match=files[number].name):
        load(*files, seed=7)


@pytest.mark.parametrize("number", [0, 1, 2])
def test_a_half_copied_file(files, number):
    files[number].write_bytes(files[number].read_bytes()[:200])
    with pytest.raises(DataError, match=rf"{files[number].name}: no complete JSON \(200 bytes\)"):
        load(*files, seed=7)


@pytest.mark.parametrize(
    ("order", "message"),
    [((1, 0, 2), "products: "), ((0, 2, 1), "instructions: "), ((0, 1, 0), "human instructions: ")],
)
def test_files_in_the_wrong_places(files, order, message):
    with pytest.raises(DataError, match=f"WebShop's data in .*{message}.* Set options.data"):
        load(*(files[number] for number in order), seed=7)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pricing": 5}, r"products: \[0\].pricing: found 5"),
        ({"name": None}, r"products: \[0\].name: found null"),
        ({"customization_options": {"color": ["red"]}}, r"products: \[0\].customization_options"),
        ({"small_description": [1]}, r"products: \[0\].small_description"),
    ],
)
def test_a_product_of_another_form(change, message):
    with pytest.raises(DataError, match=message):
        Catalogue.of([item("X", "x", **change)], {"X": {}}, seed=0)


def test_files_of_different_sets():
    with pytest.raises(DataError, match="none of the products is in them"):
        Catalogue.of(ITEMS, {"B000000000": {}}, seed=0)


def test_no_usable_product():
    with pytest.raises(DataError, match="none of them with an id"):
        Catalogue.of([item("nan", "x")], {}, seed=0)
