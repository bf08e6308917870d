"""Panels of WebShop: which goals belong to which split."""

import hashlib
import json
from itertools import islice

import pytest

from qlass.envs.core.checker import check_env
from qlass.envs.core.panels import build_panel, check_disjoint
from qlass.envs.webshop import DEFINITION
from qlass.envs.webshop import panels as module
from qlass.envs.webshop.generate import FILES, generate
from qlass.envs.webshop.options import Options, open_shop
from qlass.envs.webshop.panels import SPLITS, leaks, panels, split_of
from qlass.envs.webshop.solvable import is_solvable
from qlass.errors import DataError, SettingsError

pytest.importorskip("rapidfuzz", reason="needs the extra webshop")
pytest.importorskip("snowballstemmer", reason="needs the extra webshop")

OPTIONS = {"size": 600, "seed": 0, "goals": "human"}


@pytest.fixture(scope="module")
def specs():
    return {split: list(panels(OPTIONS, split, 0)) for split in SPLITS}


@pytest.fixture(scope="module")
def products():
    return generate(600, 0).by_asin()


@pytest.fixture(scope="module")
def files(tmp_path_factory):
    """A generated catalogue as if it were WebShop's own files, and the options that open it."""
    folder = tmp_path_factory.mktemp("webshop")
    generate(900, 5).write(folder)
    paths = dict(zip(("items", "attributes", "human"), (str(folder / name) for name in FILES), strict=True))
    return {"data": paths, "goals": "human", "nouns": "rule"}


def lists(tmp_path, content):
    path = tmp_path / "lists.json"
    path.write_text(json.dumps(content))
    return str(path)


def test_the_environment_keeps_the_contract():
    assert len(check_env(DEFINITION, OPTIONS, max_steps=15)) == 9


def test_splits_share_no_family_and_no_goal(specs, products):
    families = {split: {products[spec.key["asin"]].family for spec in found} for split, found in specs.items()}
    for split in SPLITS:
        others = set().union(*(families[other] for other in SPLITS if other != split))
        assert families[split]
        assert not families[split] & others
    check_disjoint(build_panel(DEFINITION, OPTIONS, split, 20, 0) for split in SPLITS)


def test_test_unseen_has_types_of_its_own(specs, products):
    labels = {split: {products[spec.key["asin"]].kind.label for spec in found} for split, found in specs.items()}
    assert len(labels["test_unseen"]) == 10
    assert not labels["test_unseen"] & (labels["train"] | labels["dev"] | labels["test_seen"])
    assert labels["test_seen"] <= labels["train"]


def test_a_family_keeps_its_split_in_a_larger_catalogue(products):
    larger = generate(1500, 0).by_asin()
    assert all(split_of(product) == split_of(larger[asin]) for asin, product in products.items())


def test_three_families_of_four_are_for_training(products):
    seen = [split_of(product) for product in products.values() if not product.kind.unseen]
    assert seen.count("train") / len(seen) == pytest.approx(0.75, abs=0.07)
    assert seen.count("dev") / len(seen) == pytest.approx(0.125, abs=0.05)


def test_the_seed_orders_and_moves_nothing(specs):
    again = list(panels(OPTIONS, "dev", 0))
    other = list(panels(OPTIONS, "dev", 1))
    assert again == specs["dev"]
    assert [spec.key for spec in other] != [spec.key for spec in again]
    assert {spec.key["goal"] for spec in other} == {spec.key["goal"] for spec in again}


def test_categories_take_turns_and_families_come_once_before_any_comes_twice(specs, products):
    first = specs["train"][:50]
    assert [spec.category for spec in first[:5]] == list(DEFINITION.categories)
    assert len({products[spec.key["asin"]].family for spec in first}) == 50


def test_goals_that_the_target_cannot_solve_are_left_out():
    options = OPTIONS | {"goals": "synthetic", "per_product": 3}
    shop = open_shop(Options.of(options))
    taken = {spec.key["goal"] for split in SPLITS for spec in panels(options, split, 0)}
    solvable = {number for number, goal in enumerate(shop.goals) if is_solvable(goal, shop.catalogue, shop.nouns)}
    assert taken == solvable
    assert len(solvable) < len(shop.goals)


def test_an_unknown_split_is_refused():
    with pytest.raises(SettingsError, match="split='valid', allowed are train, dev, test_seen, test_unseen"):
        panels(OPTIONS, "valid", 0)


def test_original_data_is_split_by_upstreams_ranges(files):
    n_goals = len(open_shop(Options.of(files)).goals)
    numbers = {
        split: [spec.key["goal"] for spec in panels(files, split, 0)] for split in ("test_seen", "dev", "train")
    }
    assert [number for split in numbers for number in numbers[split]] == list(range(n_goals))
    assert [len(numbers[split]) for split in numbers] == [500, 1000, n_goals - 1500]
    with pytest.raises(SettingsError, match="original data has test_seen, dev, train"):
        panels(files, "test_unseen", 0)


def test_ranges_need_enough_goals(files):
    with pytest.raises(SettingsError, match="upstream's ranges need more than 1500"):
        panels(files | {"goals": "synthetic", "per_product": 1}, "train", 0)


def test_lists_name_goals_and_those_of_train_are_left_out_of_tests(files, tmp_path, caplog):
    options = files | {"lists": lists(tmp_path, {"train": [7, 3, 5], "test_seen": [2, 3, 9, 5]})}
    assert [spec.key["goal"] for spec in panels(options, "train", 0)] == [7, 3, 5]
    assert [spec.key["goal"] for spec in panels(options, "test_seen", 0)] == [2, 9]
    assert "split=test_seen leaked=2 kept=False" in caplog.text
    assert [spec.key["goal"] for spec in panels(options | {"leaked": True}, "test_seen", 0)] == [2, 3, 9, 5]
    assert leaks({"train": [7, 3, 5], "test_seen": [2, 3, 9, 5]}) == {"test_seen": [3, 5]}


@pytest.mark.parametrize(
    ("content", "change", "published"),
    [
        ({"test_seen": [9, 2, 5]}, {}, True),
        ({"test_seen": [9, 2, 5], "train": [5]}, {"leaked": True}, True),
        ({"test_seen": [9, 2, 5], "train": [5]}, {}, False),  # 5 is not played
        ({"test_seen": [9, 2]}, {}, False),
        ({"train": [2, 5, 9]}, {}, False),
        ({"test_seen": [9, 2, 5]}, {"goals": "synthetic"}, False),
        ({"test_seen": [9, 2, 5]}, {"data": None}, False),
        ({"test_seen": [9, 2, 5]}, {"lists": None}, False),
    ],
)
def test_published_tasks_are_all_of_the_published_list(files, tmp_path, monkeypatch, content, change, published):
    monkeypatch.setattr(module, "PUBLISHED_TEST", hashlib.sha256(b"[2, 5, 9]").hexdigest())
    options = files | {"lists": lists(tmp_path, content)} | change
    assert DEFINITION.published(options) is published


def test_lists_need_original_data():
    with pytest.raises(SettingsError, match=r"lists is 'a\.json', but data is null"):
        panels(OPTIONS | {"lists": "a.json"}, "train", 0)


@pytest.mark.parametrize(
    ("content", "error", "message"),
    [
        ({"train": ["7"]}, DataError, r"train\[0\]: found '7'"),
        ([1, 2], DataError, "expected a mapping"),
        ({"train": [1], "valid": [2]}, DataError, "unknown splits valid; allowed are train"),
        ({"train": [1], "dev": [99_999]}, DataError, "dev has goal 99999, the data has goals 0 to"),
        ({"train": [1]}, SettingsError, "split='dev': .* has only train"),
    ],
)
def test_bad_lists_are_one_clear_error(files, tmp_path, content, error, message):
    with pytest.raises(error, match=message):
        panels(files | {"lists": lists(tmp_path, content)}, "dev", 0)


def test_a_key_is_complete_and_says_which_shop_it_is_of(specs, files):
    spec = specs["train"][0]
    assert spec.key.keys() == {"shop", "goal", "asin"}
    assert spec.key["shop"] == "generated size=600 seed=0 human"
    other = next(islice(panels(files, "train", 0), 1))
    assert other.key["shop"].startswith("files ")
    env = DEFINITION.make(OPTIONS)
    assert open_shop(Options.of(OPTIONS)).goals[spec.key["goal"]].instruction in env.reset(spec)[0]
