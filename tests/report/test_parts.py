"""The parts of the report one by one: words, colours, scales, trees, comparisons."""

import re

import pytest

from qlass.errors import DataError
from qlass.evaluation import summarise
from qlass.evaluation.bootstrap import Interval
from qlass.labels.backup import label_tree
from qlass.methods.base import get_method, method_names
from qlass.recipes.recipe import get_recipe, recipe_names
from qlass.records import Cost, Episode, ExplorationTree, Node, Step
from qlass.report.charts import budget
from qlass.report.colour import ink_on, luminance, q_colour
from qlass.report.compare import compare
from qlass.report.headline import signed, verdict
from qlass.report.paper import REPORTED, family, in_order, method_name
from qlass.report.plots import thin
from qlass.report.results import Result
from qlass.report.svg import Scale, number, tag
from qlass.report.trees import TreeStatistics, informative, view_tree


def contrast(one, other):
    """Return the WCAG contrast ratio."""
    light, dark = sorted((luminance(one), luminance(other)), reverse=True)
    return (light + 0.05) / (dark + 0.05)


@pytest.mark.parametrize("q", [value / 50 for value in range(-5, 56)])
def test_chips_are_readable(q):
    colour = q_colour(q)
    assert contrast(colour, {"#000": "#000000", "#fff": "#ffffff"}[ink_on(colour)]) >= 4.5


def test_colour_scale_gets_lighter():
    lights = [luminance(q_colour(step / 20)) for step in range(21)]
    assert lights == sorted(lights)
    assert q_colour(0) == "#440154"
    assert q_colour(1) == "#fde725"


@pytest.mark.parametrize(
    ("interval", "words"),
    [
        ((5.0, 1.0, 9.0), "5.0 points above SFT (paired 95% interval over tasks +1.0 to +9.0)"),
        ((-5.0, -9.0, -1.0), "5.0 points below SFT (paired 95% interval over tasks −9.0 to −1.0)"),
        (
            (2.0, -1.0, 5.0),
            "not distinguishable from SFT (difference +2.0, paired 95% interval over tasks −1.0 to +5.0)",
        ),
        ((0.0, 0.0, 0.0), "not distinguishable from SFT (difference 0.0, paired 95% interval over tasks 0.0 to 0.0)"),
    ],
)
def test_verdict_is_as_strong_as_the_interval(interval, words):
    assert verdict(Interval(*interval, over="tasks"), "sft", 0.95) == words


def test_signs():
    assert [signed(value) for value in (1.25, -1.25, -0.04, 0.0)] == ["+1.2", "−1.2", "0.0", "0.0"]


def test_paper_table():
    assert REPORTED["alfworld", "test_unseen", "qlass"] == 82.8
    assert REPORTED["webshop", "test_seen", "sft"] == 63.1
    assert len(REPORTED) == 50


@pytest.mark.parametrize(
    ("low", "high", "log", "ticks"),
    [
        (0, 100, False, [0, 20, 40, 60, 80, 100]),
        (0.37, 1.9, False, [0.5, 1.0, 1.5]),
        (90, 2100, True, [100, 200, 500, 1000, 2000]),
    ],
)
def test_ticks_are_round(low, high, log, ticks):
    assert Scale(low, high, 0, 1, log).ticks() == pytest.approx(ticks)


def test_scale_clips_and_can_run_upwards():
    scale = Scale(0, 10, 100, 0)
    assert [scale(value) for value in (-5, 0, 2.5, 10, 20)] == [100, 100, 75, 0, 0]
    assert Scale(1, 100, 0, 2, log=True)(10) == pytest.approx(1)


def test_svg_escapes_and_is_short():
    made = tag("text", "<b>", x=1.0, y=1 / 3, data_q='"', class_="a")
    assert str(made) == '<text x="1" y="0.33" data-q="&#34;" class="a">&lt;b&gt;</text>'
    assert number(-0.001) == "0"


@pytest.mark.parametrize(("highest", "top"), [(100, 100), (51, 100), (44.4, 60), (9, 20), (0, 20)])
def test_the_axis_of_rewards_ends_where_methods_can_be_told_apart(highest, top):
    means = {"sft": highest / 2, "qlass": highest}
    results = [
        Result(
            env="corridor",
            split="test_seen",
            method=method,
            summary=summarise([Episode("t", "c", method, 0, mean / 100, False, "", (), Cost(generated_tokens=10))]),
            reward=Interval(mean, mean, mean, over="tasks"),
            success=Interval(0.0, 0.0, 0.0, over="tasks"),
            tokens=Interval(10.0, 10.0, 10.0, over="tasks"),
            versus_sft=None,
        )
        for method, mean in means.items()
    ]  # fmt: skip
    picture = budget(results)
    assert max(float(tick) for tick in re.findall(r">([\d.]+)</text>", picture) if float(tick) <= 100) <= top
    assert f"QLASS {highest:.1f} at 10 tokens" in picture, "the reward is drawn, where success is 0"


def test_long_series_are_averaged():
    points = thin([(float(i), float(i % 2)) for i in range(1000)])
    assert len(points) <= 240
    assert sum(y for _, y in points) / len(points) == pytest.approx(0.5)


def test_variants_belong_to_their_family():
    assert [family(name) for name in ("qlass", "qlass_m8", "best_of_n-12", "mine")] == [
        "qlass",
        "qlass",
        "best_of_n",
        "other",
    ]


def test_names_of_variants():
    names = [method_name(name) for name in ("qlass", "best_of_n_qnet", "mine")]
    assert names == ["QLASS", "Best-of-N (qnet)", "mine"]


def test_rows_that_the_paper_lacks_follow_as_they_came():
    given = ["zeta", "qlass_adaptive", "sft", "best_of_n_qnet", "alpha", "qlass", "best_of_n", "zeta"]
    wanted = ["sft", "best_of_n", "best_of_n_qnet", "qlass", "qlass_adaptive", "zeta", "alpha"]
    assert in_order(given) == wanted


def test_names_of_rows_are_the_titles_of_their_files():
    rows = {name: get_recipe(name).title for name in recipe_names()}
    rows |= {name: get_method(name).title for name in method_names()}
    assert {name: method_name(name) for name in rows} == rows
    assert rows["qlass_adaptive"] == "QLASS (adaptive)"
    assert [method_name(name) for name in ("gpt_4", "eto")] == ["GPT-4", "ETO"]  # in the paper alone


def node(node_id, parent, depth, reward=0.0, end=False):
    return Node(node_id, parent, depth, Step("", f"a{node_id}", "o", reward, end, False), "rollout")


def small_tree(rewards=(1.0, 0.0), task="t"):
    """Root, two actions in a row, then a fork into one leaf per reward."""
    leaves = tuple(node(2 + i, 1, 3, reward, True) for i, reward in enumerate(rewards))
    return ExplorationTree(task, "o", (node(0, -1, 1), node(1, 0, 2), *leaves), 0, 0, 0, False, Cost())


def test_tree_becomes_segments():
    tree = small_tree()
    values = {label.node_id: (label.q, label.q_norm) for label in label_tree(tree, 0.9)}
    (trunk,) = view_tree(tree, values)
    assert [view.node.node_id for view in trunk.views] == [0, 1]
    assert (trunk.branches, trunk.rewarded) == (2, 1)
    good, bad = trunk.forks
    assert (good.views[0].best, bad.views[0].best) == (True, False)
    assert good.views[0].colour == "#fde725"
    assert trunk.views[1].q == pytest.approx(0.9)


def test_labels_must_cover_the_tree():
    with pytest.raises(DataError, match="no Q-value for the nodes"):
        view_tree(small_tree(), {0: (0.5, 0.5)})


def test_mixed_trees_say_more():
    assert informative(small_tree((1.0, 0.0))) > informative(small_tree((1.0, 1.0))) > 0
    assert informative(ExplorationTree("t", "o", (), 0, 0, 0, False, Cost())) == 0


def test_tree_statistics():
    statistics = TreeStatistics()
    for rewards in ((1.0, 0.0), (1.0, 1.0), (0.0,)):
        statistics.add(small_tree(rewards))
    assert (statistics.trees, statistics.branches, statistics.rewarded) == (3, 5, 3)
    assert (statistics.mixed, statistics.solved) == (1, 2)
    assert statistics.lengths == {3: (3, 2)}


def episode(method, number, actions, outcome, candidates=()):
    steps = tuple(
        Step("", action, "o", outcome * (i == len(actions) - 1), False, False) for i, action in enumerate(actions)
    )
    return Episode(f"t{number}", "c", method, 0, outcome, outcome == 1, "o", steps, Cost(), "", candidates)


def test_comparison_shows_where_they_part():
    options = ((("x", 0.4),), (("z", 0.2), ("b", 0.9)))
    groups = {
        ("test_seen", "sft"): (episode("sft", 0, "xyz", 0.0), episode("sft", 1, "x", 1.0)),
        ("test_seen", "qlass"): (episode("qlass", 0, "xb", 1.0, options), episode("qlass", 1, "x", 1.0)),
    }
    found = compare(groups)
    assert (found.better, found.worse, found.equal, found.loss) == (1, 0, 1, None)
    turns = found.win.turns
    assert [turn.first_difference for turn in turns] == [False, True, False]
    assert [(c.action, c.chosen) for c in turns[1].candidates] == [("b", True), ("z", False)]
    assert turns[2].right is None


def test_comparison_needs_common_tasks():
    groups = {("s", "sft"): (episode("sft", 0, "x", 0.0),), ("s", "qlass"): (episode("qlass", 1, "x", 1.0),)}
    assert compare(groups) is None
