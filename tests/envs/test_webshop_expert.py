"""The demonstrator of WebShop: it shops by what it has read."""

import re
from dataclasses import replace
from itertools import islice

import pytest

from qlass.envs.core.registry import make_env
from qlass.envs.webshop import DEFINITION
from qlass.envs.webshop.expert import PATIENCE, WebshopExpert
from qlass.envs.webshop.options import Options, open_shop
from qlass.envs.webshop.wishes import understand
from qlass.errors import EnvironmentFault

pytest.importorskip("rapidfuzz", reason="needs the extra webshop")
pytest.importorskip("snowballstemmer", reason="needs the extra webshop")

PLACES = ("title", "features", "description")
OPTIONS = {"size": 1000, "seed": 0, "goals": "human"}


def play(spec, options=OPTIONS, *, seed=0, shown=None):
    """Return [(thought, action), ...] and the reward; `shown` is the spec that the expert gets."""
    env = make_env(DEFINITION, options, PATIENCE)
    expert = DEFINITION.make_expert(shown or spec, seed)
    observation, _ = env.reset(spec)
    steps, over, reward = [], False, 0.0
    while not over:
        steps.append(expert.act(observation))
        observation, reward, terminated, truncated, info = env.step(steps[-1][1])
        assert info["valid"], steps[-1]
        over = terminated or truncated
    return steps, reward


def specs(split, count, options=OPTIONS):
    return list(islice(DEFINITION.panels(options, split, 0), count))


@pytest.mark.parametrize("split", ["train", "test_unseen"])
def test_it_solves_most_goals_within_its_patience(split):
    rewards = [play(spec)[1] for spec in specs(split, 100)]
    assert sum(reward == 1.0 for reward in rewards) >= 82
    assert sum(rewards) >= 92


def test_it_solves_goals_in_upstreams_synthetic_style():
    options = OPTIONS | {"goals": "synthetic", "per_product": 3}
    rewards = [play(spec, options)[1] for spec in specs("test_seen", 40, options)]
    assert sum(reward == 1.0 for reward in rewards) >= 32


def test_it_acts_the_same_when_the_goal_is_hidden_from_it():
    hidden = replace(specs("train", 1)[0], task_id="hidden", split="", category="", key={})
    for spec in specs("dev", 20):
        assert play(spec, shown=hidden) == play(spec)


def test_both_forms_of_pages_give_the_same_actions():
    for spec in specs("test_seen", 20):
        assert play(spec, OPTIONS | {"mode": "text_rich"}) == play(spec)


@pytest.mark.parametrize("goals", ["human", "synthetic"])
def test_its_actions_and_all_that_is_offered_have_the_normal_form(goals):
    options, offered = OPTIONS | {"goals": goals}, set()
    env = make_env(DEFINITION, options, PATIENCE)
    for spec in specs("train", 40, options):
        env.reset(spec)
        for _, action in play(spec, options)[0]:
            assert DEFINITION.normalise_action(action) == action
            offered.update(env.step(action)[4]["admissible_actions"])
    for action in offered:
        assert DEFINITION.normalise_action(action) == action
    assert len([action for action in offered if action.startswith("click[B0")]) > 100


def test_seeds_change_wordings_only():
    found = [play(spec, seed=seed) for spec in specs("dev", 5) for seed in (0, 1)]
    for (one, _), (other, _) in zip(found[::2], found[1::2], strict=True):
        assert [action for _, action in one] == [action for _, action in other]
    assert found[::2] != found[1::2]


def test_it_names_what_it_checks_and_buys_only_what_it_saw_unless_patience_ends():
    shop, hurried = open_shop(Options.of(OPTIONS)), 0
    for spec in specs("train", 60):
        steps, reward = play(spec)
        wish = understand(shop.goals[spec.key["goal"]].instruction)
        last = steps[-1][0]
        bought = [action[6:-1] for _, action in steps if action.startswith("click[B0")][-1]
        assert steps[-1][1] == "click[buy now]"
        if "I did not see" in last:
            assert len(steps) > PATIENCE - 4
            hurried += 1
        else:
            opened = [action for _, action in steps].index(f"click[{bought}]")
            said = " ".join(thought for thought, _ in steps[opened + 1 :])
            for quality in wish.qualities:
                assert any(f"Is {quality.name} in the {place}? yes." in said for place in PLACES)
            for option in wish.options:
                assert f"Is {option} offered? yes." in said
                assert option in last
            assert reward == 1.0 or " to $" in shop.product(bought).price_text  # what a range costs is not shown
    assert hurried < 15


def test_its_thoughts_ask_one_question_after_the_other():
    head = "Instruction: [SEP] i need a gluten free low sodium pasta sauce. the flavor should be basil, and price lower than 30.00 dollars"
    expert = WebshopExpert(None, 0)
    assert expert.act(f"WebShop [SEP] {head} [SEP] Search")[0].startswith(
        "I need: pasta sauce, gluten free, low sodium, basil, below 30. "
    )
    first, second = (
        "B0AAAAAAAA [SEP] Best Pasta Sauce [SEP] $8.99",
        "B0BBBBBBBB [SEP] Low Sodium Pasta Sauce [SEP] $9.5",
    )
    results = f"{head} [SEP] Back to Search [SEP] Page 1 (Total results: 2) [SEP] Next > [SEP] {first} [SEP] {second}"
    end = "Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now"
    item = f"{head} [SEP] Back to Search [SEP] < Prev [SEP] flavor [SEP] {{}} [SEP] {{}} Pasta Sauce [SEP] Price: $9.5 [SEP] {end}"
    features = f"{head} [SEP] Back to Search [SEP] < Prev [SEP] This pasta sauce is gluten free [SEP] Made here"
    pages = [results, item.format("rose", "Low Sodium"), results, item.format("basil", "Best"), features]
    pages.append(item.format("basil", "Best"))
    # What comes behind the last answer is a wording of many.
    said = [(re.match(r".*\b(?:yes|no|30)(?=\.)", thought)[0], action) for thought, action in map(expert.act, pages)]
    assert said == [
        ("B0BBBBBBBB costs 9.5, below 30", "click[B0BBBBBBBB]"),
        ("Is basil offered? no", "click[< prev]"),
        ("B0BBBBBBBB did not fit. B0AAAAAAAA costs 8.99, below 30", "click[B0AAAAAAAA]"),
        ("Is basil offered? yes. Is gluten free in the title? no. Is low sodium in the title? no", "click[features]"),
        ("Is gluten free stated here? yes. Is low sodium stated here? no", "click[< prev]"),
        ("Is gluten free in the features? yes. Is low sodium in the features? no", "click[description]"),
    ]


def test_it_reads_every_generated_instruction_as_it_was_meant():
    shop = open_shop(Options.of(OPTIONS))
    for goal in shop.goals:
        wish = understand(goal.instruction)
        assert sorted(wish.options) == sorted(goal.option_values), goal
        assert sorted(min(quality.wordings, key=len) for quality in wish.qualities) == sorted(goal.attributes), goal
        assert wish.cap == goal.price_upper, goal
        assert wish.rest == "", goal  # nothing is left over
        assert wish.thing in goal.instruction


@pytest.mark.parametrize(
    ("instruction", "thing", "qualities", "options", "cap"),
    [
        ("i need a pasta sauce without gluten", "pasta sauce", ["gluten free"], [], float("inf")),
        (
            "find me a soy wax scented candle. i like the rose scent, and price lower than 30.00 dollars",
            "scented candle",
            ["soy wax"],
            ["rose"],
            30.0,
        ),
        (
            "Find me metal legs, white finish side tables for living room with color: black, and size: pack of two, "
            "and price lower than 120.00 dollars",
            "side tables",
            ["living room", "metal legs", "white finish"],
            ["black", "pack of two"],
            120.0,
        ),
        (
            "i am looking for a pewter chandelier with nine arms, and price lower than 90.00 dollars",
            "pewter chandelier nine arms",
            [],
            [],
            90.0,
        ),
    ],
)
def test_instructions_are_understood(instruction, thing, qualities, options, cap):
    wish = understand(instruction)
    assert (wish.thing, wish.options, wish.cap) == (thing, tuple(options), cap)
    assert sorted(quality.name for quality in wish.qualities) == qualities


def test_a_shop_without_hits_is_searched_in_other_words():
    expert = WebshopExpert(None, 0)
    instruction = "i need a quick drying side table in oak, and price lower than 90.00 dollars"
    asked = [expert.act(f"WebShop [SEP] Instruction: [SEP] {instruction} [SEP] Search")[1]]
    empty = f"Instruction: [SEP] {instruction} [SEP] Back to Search [SEP] Page 1 (Total results: 0) [SEP] Next >"
    asked += [expert.act(empty)[1] for _ in range(3)]
    assert asked == [
        "search[quick drying side table oak]",
        "search[quick drying side table]",
        "search[side table]",
        "search[side table]",
    ]


def test_offered_values_are_chosen_though_the_words_around_them_are_not_known():
    expert = WebshopExpert(None, 0)
    head = "Instruction: [SEP] i need a brass chandelier in antique gray with 9.5 inch arms [SEP] Back to Search [SEP]"
    expert.act(
        "WebShop [SEP] Instruction: [SEP] i need a brass chandelier in antique gray with 9.5 inch arms [SEP] Search"
    )
    hit = f"{head} Page 1 (Total results: 1) [SEP] Next > [SEP] B0AAAAAAAA [SEP] Brass Chandelier [SEP] $19.5 to $30.0"
    item = (
        f"{head} < Prev [SEP] color [SEP] antique gray [SEP] gray [SEP] length [SEP] 9.5 inch [SEP] 19.5 inch [SEP] "
        "Brass Chandelier [SEP] Price: $19.5 to $30.0 [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews "
        "[SEP] Buy Now"
    )
    actions = [expert.act(page)[1] for page in (hit, item, item, item)]
    assert actions == ["click[B0AAAAAAAA]", "click[antique gray]", "click[9.5 inch]", "click[buy now]"]


@pytest.mark.parametrize("observation", ["You are in a room.", "", "Instruction: [SEP] buy it"])
def test_what_is_no_page_is_an_error(observation):
    with pytest.raises(EnvironmentFault, match="no page of WebShop"):
        WebshopExpert(None, 0).act(observation)


def test_an_item_that_was_not_opened_is_an_error():
    page = "Instruction: [SEP] a [SEP] Back to Search [SEP] < Prev [SEP] Cup [SEP] Price: $3.0 [SEP] Buy Now"
    with pytest.raises(EnvironmentFault, match="an item that was not opened"):
        WebshopExpert(None, 0).act(page)
