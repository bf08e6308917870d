"""Summaries of episodes: exact numbers on small panels."""

from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlass.errors import DataError
from qlass.evaluation import mean_by_task, summarise
from qlass.records import Cost, Episode, Step

GO = Step("", "go east", "You are at cell 2.", 0.0, False, False)
MISS = replace(GO, valid=False)
END = replace(GO, terminated=True)
LIMIT = replace(GO, truncated=True)


def episode(task_id, seed, outcome, *, steps=(GO, END), category="enter", error="", cost=None):
    return Episode(
        task_id=task_id, category=category, method="qlass", seed=seed, outcome=outcome, success=outcome == 1.0,
        observation="o", steps=steps, cost=cost or Cost(), error=error,
    )  # fmt: skip


def test_every_number():
    episodes = [
        episode("a", 0, 1.0, cost=Cost(10, 100, 2, 4, 2)),
        episode("a", 1, 0.5, cost=Cost(20, 200, 2, 4, 2)),
        episode("b", 0, 0.0, steps=(GO, MISS, LIMIT), category="fetch", cost=Cost(30, 300, 3, 6, 3)),
        episode("b", 1, 0.0, steps=(), category="fetch", error="the server went away"),
    ]
    assert summarise(episodes) == {
        "n_tasks": 2,
        "n_seeds": 2,
        "mean_reward": 37.5,
        "success_rate": 25.0,
        "generated_tokens_per_episode": 15.0,
        "prompt_tokens_per_episode": 150.0,
        "policy_calls_per_episode": 1.75,
        "qnet_calls_per_episode": 3.5,
        "env_steps_per_episode": 1.75,
        "steps_per_episode": 1.75,
        "invalid_action_rate": pytest.approx(1 / 7),
        "truncated_rate": 0.25,
        "errors": 1,
        "by_category": {
            "enter": {"n_tasks": 1, "mean_reward": 75.0, "success_rate": 50.0},
            "fetch": {"n_tasks": 1, "mean_reward": 0.0, "success_rate": 0.0},
        },
    }


def test_an_episode_with_an_error_is_a_failure_whatever_it_says():
    summary = summarise([episode("a", 0, 1.0, error="closed"), episode("b", 0, 1.0)])
    assert (summary["mean_reward"], summary["success_rate"], summary["errors"]) == (50.0, 50.0, 1)


def test_only_errors():
    summary = summarise([episode("a", 0, 0.0, steps=(), error="closed")])
    assert (summary["invalid_action_rate"], summary["truncated_rate"]) == (0.0, 0.0)


def test_seeds_are_averaged_inside_the_task():
    episodes = [episode("a", 0, 1.0), episode("a", 1, 0.0), episode("b", 0, 1.0), episode("b", 1, 1.0)]
    assert mean_by_task(episodes) == {"a": 0.5, "b": 1.0}
    assert mean_by_task(episodes, lambda item: item.seed) == {"a": 0.5, "b": 0.5}


@pytest.mark.parametrize(
    ("episodes", "message"),
    [
        ([], "no method"),
        ([episode("a", 0, 1.0), replace(episode("b", 0, 1.0), method="sft")], r"\['qlass', 'sft'\]"),
        ([episode("a", 0, 1.0), episode("a", 0, 1.0)], r"qlass on a: episodes with seeds \[0, 0\], expected each of \[0\]"),
        ([episode("a", 0, 1.0), episode("a", 1, 1.0), episode("b", 1, 1.0)], r"qlass on b: episodes with seeds \[1\]"),
    ],
    ids=["none", "two methods", "twice", "missing"],
)  # fmt: skip
def test_exactly_one_episode_per_task_and_seed(episodes, message):
    with pytest.raises(DataError, match=message):
        summarise(episodes)


@given(
    st.lists(st.tuples(st.floats(0, 1), st.sampled_from(["enter", "fetch"])), min_size=1, max_size=12),
    st.randoms(use_true_random=False),
)
def test_the_order_of_episodes_does_not_matter(outcomes, rng):
    episodes = [episode(f"task {i}", 0, reward, category=name) for i, (reward, name) in enumerate(outcomes)]
    shuffled = rng.sample(episodes, len(episodes))
    assert summarise(shuffled) == summarise(episodes)
    assert sum(row["n_tasks"] for row in summarise(episodes)["by_category"].values()) == len(episodes)
