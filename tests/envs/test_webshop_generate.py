"""The generated catalogue of WebShop: what it is made of, and how hard it is."""

import hashlib
import json
import re

import pytest

from qlass.envs.webshop.catalogue import Catalogue, load
from qlass.envs.webshop.generate import FILES, generate
from qlass.envs.webshop.generate.__main__ import main
from qlass.envs.webshop.generate.difficulty import measure, solutions
from qlass.envs.webshop.generate.families import ALL, DEAR, NO_ATTRIBUTE, NO_OPTION, NO_TWO, _asin
from qlass.envs.webshop.generate.vocabulary import CATEGORIES, nouns, other_words, vocabulary
from qlass.envs.webshop.goals import human_goals, synthetic_goals
from qlass.envs.webshop.nouns import lexicon
from qlass.envs.webshop.reward import matches, normalize_color
from qlass.errors import SettingsError

pytest.importorskip("rapidfuzz", reason="needs the extra webshop")
pytest.importorskip("snowballstemmer", reason="needs the extra webshop")

# SHA-256 of the three files of 200 products: a change of words or draws changes every panel and result.
FROZEN = {
    0: "80026a9d4b84e9e4462e78e1141a3af88ce9a68bf0f9a4a6eaba00f4fe0dac72",
    7: "08b9c999d44a2a81f08fc99058a11253363e7d9e51ae0b45b29413da436c0b3b",
}


@pytest.fixture(scope="module")
def made():
    return generate(1000, 0)


@pytest.fixture(scope="module")
def catalogue(made):
    return Catalogue.of(made.items(), made.instructions(), made.human(), seed=0)


@pytest.fixture(scope="module")
def families(made):
    found = {}
    for product in made.products:
        found.setdefault(product.family, []).append(product)
    return list(found.values())[:-1]  # the last one is cut off


@pytest.mark.parametrize("seed", FROZEN)
def test_equal_arguments_give_equal_files_on_every_machine(seed, tmp_path):
    generate(200, seed).write(tmp_path)
    content = b"".join((tmp_path / name).read_bytes() for name in FILES)
    assert hashlib.sha256(content).hexdigest() == FROZEN[seed]
    assert content.isascii()


def test_a_larger_catalogue_begins_with_the_smaller_one(made):
    assert generate(1300, 0).products[:1000] == made.products
    assert generate(1000, 1).products != made.products


def test_the_files_are_read_as_upstreams_are(made, catalogue, tmp_path):
    made.write(tmp_path)
    assert load(*(tmp_path / name for name in FILES), seed=0) == catalogue
    assert len(catalogue.products) == 1000


@pytest.mark.parametrize(("size", "seed"), [(0, 0), (100_001, 0), (10, -1)])
def test_other_sizes_and_seeds_are_refused(size, seed):
    with pytest.raises(SettingsError, match=r"webshop options: (size|seed)=.*allowed are"):
        generate(size, seed)


def test_ids_are_ten_capitals_and_digits_and_never_repeat():
    ids = [_asin(number, 3) for number in range(100_000)]
    assert len(set(ids)) == len(ids)
    assert all(re.fullmatch("B0[0-9A-Z]{8}", asin) for asin in ids)


def test_there_are_ten_types_in_each_category_and_two_of_them_are_unseen():
    types = vocabulary().types
    assert len({kind.label for kind in types}) == 50
    for category in CATEGORIES:
        assert sum(kind.category == category for kind in types) == 10
        assert sum(kind.category == category and kind.unseen for kind in types) == 2


def test_the_lexicon_knows_every_word_of_every_title(made):
    words = {word for product in made.products for word in re.findall(r"[^\W_]+", product.title.lower())}
    assert not nouns() & other_words()
    assert words <= nouns() | other_words()


def test_siblings_lack_what_their_role_says(families):
    for family in families:
        base = next(product for product in family if product.role == ALL)
        assert 3 <= len(family) <= 5
        assert {product.kind for product in family} == {base.kind}
        for sibling in family:
            if sibling.role in (NO_ATTRIBUTE, NO_TWO):
                lost = 1 if sibling.role == NO_ATTRIBUTE else 2
                assert not set(base.attributes[:lost]) & set(sibling.attributes)
                assert set(base.attributes[lost:]) < set(sibling.attributes)
                assert sibling.options == base.options
            elif sibling.role == NO_OPTION:
                name, value = base.wanted
                offered = {group.name: group.values for group in sibling.options}
                assert value not in offered[name]
                assert sibling.attributes == base.attributes
            elif sibling.role == DEAR:
                # The highest cap of a goal of the base is four tens above its price.
                assert sibling.prices[0] > 40 + (base.prices[-1] if base.prices else 100.0)


def test_every_role_and_several_families_of_a_type_occur(families):
    roles = {product.role for family in families for product in family}
    assert roles == {ALL, NO_ATTRIBUTE, NO_OPTION, DEAR, NO_TWO}
    labels = [family[0].kind.label for family in families]
    assert min(labels.count(label) for label in labels) >= 4


def test_an_attribute_is_stated_once_and_others_of_the_type_nowhere(made):
    for product in made.products:
        texts = [product.title.lower(), product.description.lower(), *(bullet.lower() for bullet in product.bullets)]
        stated = [a.key for a in product.kind.attributes if any(a.bare in text or a.key in text for text in texts)]
        assert sorted(stated) == sorted(attribute.key for attribute in product.attributes), product
        for attribute in product.attributes:
            assert sum(attribute.bare in text for text in texts) == 1, (product, attribute)


def test_most_attributes_are_on_the_features_page_only(made):
    hidden = [
        not any(attribute.bare in text.lower() for text in (product.title, product.bullets[0], product.description))
        for product in made.products
        for attribute in product.attributes
    ]
    assert 0.5 < sum(hidden) / len(hidden) < 0.7


def test_statistics_are_near_upstreams(made):
    groups = [len(product.options) for product in made.products]
    assert [round(groups.count(count) / len(groups), 1) for count in range(3)] == [0.4, 0.3, 0.2]
    assert max(groups) == 3
    values = sorted(len(group.values) for product in made.products for group in product.options)
    assert values[len(values) // 2] == 4
    prices = [len(product.prices) for product in made.products]
    assert 0.01 < prices.count(0) / 1000 < 0.07
    assert 0.01 < prices.count(2) / 1000 < 0.07
    written = [record for records in made.human().values() for record in records]
    counts = [len(record["instruction_options"]) for record in written]
    assert [counts.count(count) / len(counts) for count in range(3)] == pytest.approx([0.24, 0.51, 0.25], abs=0.08)
    assert 0.6 < sum(len(record["instruction_attributes"]) == 1 for record in written) / len(written) < 0.8


def test_a_third_of_the_customers_word_an_attribute_otherwise(made):
    written = [record for records in made.human().values() for record in records]
    other = sum(
        any(key not in record["instruction"] for key in record["instruction_attributes"]) for record in written
    )
    assert other / len(written) > 0.3


def test_no_option_counts_as_another_one_but_for_letter_sizes():
    for kind in vocabulary().types:
        for group in kind.options:
            alike = {
                (one, other)
                for one in group.values
                for other in group.values
                if one < other and matches(normalize_color(one), normalize_color(other))
            }
            assert not alike or "x-large" in group.values, (kind.label, alike)


def test_the_target_solves_its_goal_or_the_goal_is_counted_as_dropped(catalogue):
    extractor = lexicon(nouns())
    human = solutions(catalogue, human_goals(catalogue)[:120], extractor)
    assert human["dropped"] == 0
    assert 1.0 < human["products_with_full_score"] < 3.0
    # "espresso" is a colour word of the reward, so a table in "espresso" is not what a synthetic goal names.
    synthetic = solutions(catalogue, synthetic_goals(catalogue, 3)[:120], extractor)
    assert 0 < synthetic["dropped"] < 6


def test_the_plain_rule_agent_scores_about_half(catalogue):
    found = measure(catalogue, human_goals(catalogue)[:300], lexicon(nouns()))
    score = {name: agent["score"] for name, agent in found["agents"].items()}
    success = {name: agent["success"] for name, agent in found["agents"].items()}
    assert 0.45 < score["rule"] < 0.55
    assert success["rule"] < 0.15
    assert score["random"] < 0.1
    assert score["rule"] < score["rule_options"] < score["reader_3"] < score["reader_10"] < score["oracle"]
    assert success["oracle"] > 0.98
    assert 0.2 < found["target_within"]["instruction"]["1"] < 0.4


def test_the_program_writes_the_files_and_prints_statistics(tmp_path, capsys):
    assert main(["--size", "120", "--seed", "3", "--goals", "20", str(tmp_path)]) == 0
    found = json.loads(capsys.readouterr().out)
    assert (found["name"], found["size"], found["seed"]) == ("webshop-generated", 120, 3)
    assert found["human"]["goals"] == found["synthetic"]["goals"] == 20
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(FILES)


def test_the_program_refuses_a_bad_size_in_one_line(tmp_path, capsys):
    assert main(["--size", "0", str(tmp_path)]) == 2
    assert capsys.readouterr().err == "SettingsError: webshop options: size=0, allowed are 1 to 100000\n"
