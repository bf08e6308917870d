"""`WebShopEnv`: what the contract promises, on the generated catalogue and on files; options and their errors."""

import json
import subprocess
import sys

import pytest

pytest.importorskip("rapidfuzz")
pytest.importorskip("snowballstemmer")

from qlass.envs.webshop.adapter import WebShopEnv, normalise_action
from qlass.envs.webshop.options import Options, open_shop
from qlass.errors import DataError, EnvironmentFault, SettingsError
from qlass.records import TaskSpec
from tests.envs.tinyshop import HUMAN, INSTRUCTIONS, ITEMS, MUG


@pytest.fixture
def options(tmp_path):
    """Return options for the shop written by hand, as files."""
    names = ("items", "attributes", "human")
    for name, content in zip(names, (ITEMS, INSTRUCTIONS, HUMAN), strict=True):
        (tmp_path / f"{name}.json").write_text(json.dumps(content))
    return {"data": {name: str(tmp_path / f"{name}.json") for name in names}, "nouns": "rule", "seed": 7}


def task(options, number=None, **key):
    """Return the task of a goal, by default of one with two options."""
    goals = open_shop(Options.of(options)).goals
    if number is None:
        number = next(n for n, goal in enumerate(goals) if goal.option_values == ("navy blue", "large | wide"))
    return TaskSpec(
        "webshop/train/00000", "webshop", "train", "garden", {"goal": number, "asin": goals[number].asin} | key
    )


BUY = ("search[stoneware mug]", f"click[{MUG}]", "click[navy blue]", "click[large | wide]", "click[buy now]")


def test_an_episode(options):
    env = WebShopEnv(options)
    observation, info = env.reset(task(options))
    assert observation.startswith(
        "WebShop [SEP] Instruction: [SEP] Find me dishwasher safe, lead free coffee mugs with "
    )
    assert info == {"admissible_actions": (), "valid": True, "success": False, "outcome": 0.0}
    for action in BUY[:-1]:
        observation, reward, terminated, truncated, info = env.step(action)
        assert (reward, terminated, truncated, info["valid"]) == (0.0, False, False, True)
    assert info["admissible_actions"] == tuple(sorted(info["admissible_actions"]))
    assert set(info["admissible_actions"]) == {
        f"click[{text}]"
        for text in ("back to search", "< prev", "description", "features", "reviews", "buy now", "navy blue", "sand",
                     '4" x 3"', "large | wide")
    }  # fmt: skip
    observation, reward, terminated, truncated, info = env.step(BUY[-1])
    assert (reward, terminated, truncated) == (1.0, True, False)
    assert info == {"admissible_actions": (), "valid": True, "success": True, "outcome": 1.0}
    with pytest.raises(EnvironmentFault, match="it is over"):
        env.step("search[mug]")


def test_part_of_what_was_asked_for_is_no_success(options):
    env = WebShopEnv(options)
    env.reset(task(options))
    for action in (*BUY[:2], BUY[-1]):
        _, reward, terminated, _, info = env.step(action)
    assert (reward, terminated, info["success"], info["outcome"]) == (3 / 5, True, False, 3 / 5)


@pytest.mark.parametrize("action", ["", "xyzzy", "search[]", "click[search]", "click[a[b]]", "Search[mug]"])
@pytest.mark.parametrize("mode", ["text", "text_rich"])
def test_what_is_no_action_changes_nothing(options, action, mode):
    env = WebShopEnv(options | {"mode": mode})
    env.reset(task(options))
    before = env.step(BUY[0])
    after = env.step(action)
    assert after == (*before[:4], before[4] | {"valid": False})


def test_states_are_kept_and_restored(options):
    env = WebShopEnv(options)
    env.reset(task(options))
    for action in BUY[:3]:
        env.step(action)
    chosen = env.snapshot()
    first = [env.step(action) for action in BUY[3:]]
    env.restore(chosen)
    assert env.step("click[buy now]")[1] == 4 / 5
    env.restore(chosen)
    assert [env.step(action) for action in BUY[3:]] == first


def test_modes_and_engines_share_a_shop(options):
    plain, rich = WebShopEnv(options), WebShopEnv(options | {"mode": "text_rich"})
    texts = plain.reset(task(options))[0].split(" [SEP] ")
    lines = rich.reset(task(options))[0].splitlines()
    assert texts == [*(line.strip() for line in lines[:-1]), "Search"]
    assert open_shop(Options.of(options)) is open_shop(Options.of(options | {"mode": "text_rich"}))


def test_a_text_that_cannot_be_typed_is_not_admissible(tmp_path, options):
    items = [item for item in ITEMS if item["asin"] == MUG][:1]
    items[0] = items[0] | {
        "customization_options": {"search": [{"value": v} for v in ("a[b]", "a]b", "", "search", "x\ny")]}
    }
    path = tmp_path / "odd.json"
    path.write_text(json.dumps(items))
    options = options | {"data": options["data"] | {"items": str(path)}}
    env = WebShopEnv(options)
    env.reset(task(options, 0))
    env.step("search[mug]")
    actions = env.step(f"click[{MUG}]")[4]["admissible_actions"]
    assert "click[a]b]" in actions
    assert len(actions) == 7
    for action in actions:
        env.reset(task(options, 0))
        env.step("search[mug]")
        env.step(f"click[{MUG}]")
        assert env.step(action)[4]["valid"], action


def test_after_buying_upstream_goes_on(options):
    env = WebShopEnv(options | {"locked": False})
    env.reset(task(options))
    for action in BUY:
        env.step(action)
    assert env.step("click[buy now]")[1:4] == (0.0, False, False)  # paid once
    page, reward, terminated, _, info = env.step("search[mug]")
    assert "Page 1" in page
    assert (reward, terminated, info["outcome"]) == (0.0, False, 0.0)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("click[Buy Now]", "click[buy now]"),
        ("search[Red MUG] please", "search[red mug]"),
        ("click[b0tinymug1]", "click[B0TINYMUG1]"),  # a product's id as pages show it
        ("click[B0TinyMug1]", "click[B0TINYMUG1]"),
        ("click[B0TINYMUG12]", "click[b0tinymug12]"),
        ("click[B0TINY MUG]", "click[b0tiny mug]"),
        ("click[C0TINYMUG1]", "click[c0tinymug1]"),
        ("search[a]b]", "search[a]b]"),
        ("Click[Buy Now]", "Click[Buy Now]"),
        ("click[]", "click[]"),
        ("look around", "look around"),
    ],
)
def test_normal_forms(text, expected):
    assert normalise_action(text) == expected
    assert normalise_action(expected) == expected


@pytest.mark.parametrize("key", [{"goal": 999}, {"goal": -1}, {"goal": True}, {"goal": "1"}, {"asin": "B0OTHER000"}])
def test_a_key_that_is_no_goal_of_the_shop(options, key):
    with pytest.raises(EnvironmentFault, match="webshop/train/00000: key=.* is no goal of this shop, which has 7"):
        WebShopEnv(options).reset(task(options, 0, **key))


def test_steps_outside_an_episode(options):
    env = WebShopEnv(options)
    with pytest.raises(EnvironmentFault, match="there is no episode"):
        env.step("search[mug]")
    env.reset(task(options))
    env.close()
    env.close()
    with pytest.raises(EnvironmentFault, match="there is no episode"):
        env.step("search[mug]")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"size": 0}, "size: found 0, expected a whole number >= 1 and <= 100000"),
        ({"seed": -1}, "seed: found -1"),
        ({"mode": "html"}, "mode: found 'html' .text., expected one of text, text_rich"),
        ({"goals": "all"}, "goals: found 'all'"),
        ({"per_product": 0}, "per_product: found 0"),
        ({"data": "folder"}, "data: found 'folder'"),
        ({"data": {"items": "x"}}, "data.attributes: missing"),
        ({"locked": 1}, "locked: found 1"),
        ({"lock": True}, "lock: unknown"),
    ],
)
def test_options_that_are_not_allowed(change, message):
    with pytest.raises(SettingsError, match=f"webshop options: {message}"):
        WebShopEnv(change)


def test_data_that_is_not_there(options, tmp_path):
    with pytest.raises(DataError, match="nowhere.json"):
        WebShopEnv(options | {"data": options["data"] | {"items": str(tmp_path / "nowhere.json")}})


def test_goals_that_the_data_does_not_have(options):
    data = options["data"] | {"human": None}
    with pytest.raises(SettingsError, match="goals is 'human', but the data has no such goal"):
        WebShopEnv(options | {"data": data, "goals": "human"})


def test_the_generated_catalogue_is_the_default():
    shop = open_shop(Options.of({"size": 60}))
    assert len(shop.catalogue.products) == 60
    assert shop.nouns.kind == "lexicon"
    assert all(product.document.isascii() for product in shop.catalogue.products)
    env = WebShopEnv({"size": 60, "goals": "human"})
    assert env.reset(task({"size": 60, "goals": "human"}, 0))[1]["valid"]


def test_the_package_can_be_imported_without_the_extra():
    code = (
        "import sys; sys.modules |= dict.fromkeys(('rapidfuzz', 'snowballstemmer', 'numpy'))\n"
        "from qlass.envs.webshop import DEFINITION\n"
        "from qlass.errors import DependencyNotInstalled\n"
        "print(DEFINITION.name, 'qlass.envs.webshop.adapter' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["webshop", "False"]


@pytest.mark.parametrize("package", ["rapidfuzz", "snowballstemmer"])
def test_a_missing_package_names_the_extra(package):
    code = (
        f"import sys; sys.modules['{package}'] = None\n"
        "from qlass.envs.webshop.reward import matches\nfrom qlass.envs.webshop.tokens import tokens\n"
        "from qlass.errors import DependencyNotInstalled\n"
        "try:\n    matches('a', 'b'), tokens('words')\nexcept DependencyNotInstalled as error:\n    print(error)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert package in done.stdout
    assert "pip install 'qlass[webshop]'" in done.stdout
