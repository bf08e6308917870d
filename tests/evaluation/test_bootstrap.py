"""Bootstrap intervals: reproducible, of the right width, over tasks and not over seeds."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlass.errors import DataError, SettingsError
from qlass.evaluation import Interval, bootstrap_mean, paired_bootstrap

SETTINGS = {"resamples": 400, "confidence": 0.95, "seed": 0}
values = st.lists(st.floats(0, 1), min_size=1, max_size=20)


@given(values)
def test_the_interval_holds_possible_means(found):
    interval = bootstrap_mean(found, **SETTINGS)
    assert interval.mean == pytest.approx(sum(found) / len(found))
    assert min(found) - 1e-9 <= interval.low <= interval.high <= max(found) + 1e-9


@given(values, st.integers(0, 5))
def test_the_draws_are_those_of_published_intervals(found, seed):
    # One draw after the other, as they were made first: published intervals must come out again to the last bit.
    rng, ordered = np.random.default_rng(seed), np.sort(found)
    means = [ordered[rng.integers(0, len(found), len(found))].mean() for _ in range(400)]
    low, high = np.quantile(means, [(1 - 0.95) / 2, 1 - (1 - 0.95) / 2])
    expected = Interval(ordered.mean(), low, high, "tasks")
    assert bootstrap_mean(found, **(SETTINGS | {"seed": seed})) == expected


@given(values, st.randoms(use_true_random=False))
def test_the_order_of_tasks_does_not_matter(found, rng):
    assert bootstrap_mean(rng.sample(found, len(found)), **SETTINGS) == bootstrap_mean(found, **SETTINGS)


def test_equal_seeds_give_equal_intervals_and_others_do_not():
    found = [0.0, 1.0, 1.0, 0.5, 0.25]
    one = bootstrap_mean(found, **SETTINGS)
    assert bootstrap_mean(found, **SETTINGS) == one
    others = {bootstrap_mean(np.random.default_rng(1).random(50), **(SETTINGS | {"seed": seed})) for seed in range(5)}
    assert len(others) > 1


def test_one_task_and_equal_tasks_have_no_width():
    assert bootstrap_mean([0.5], **SETTINGS) == Interval(0.5, 0.5, 0.5, "tasks")
    assert bootstrap_mean([1.0] * 9, **SETTINGS) == Interval(1.0, 1.0, 1.0, "tasks")


def test_seeds_inside_a_task_do_not_narrow_the_interval():
    # Ten repeats of the same task are not ten tasks.
    found = np.array([0.0, 1.0, 1.0, 0.0, 1.0, 0.0])
    repeated = np.repeat(found[:, None], 10, axis=1)  # (tasks, seeds)
    assert bootstrap_mean(repeated, **SETTINGS) == bootstrap_mean(found, **SETTINGS)


def test_the_width_is_that_of_the_normal_approximation():
    found = np.random.default_rng(0).random(400)
    interval = bootstrap_mean(found, resamples=4000, confidence=0.95, seed=0)
    half_width = 1.96 * found.std() / math.sqrt(len(found))
    assert interval.mean - interval.low == pytest.approx(half_width, rel=0.1)
    assert interval.high - interval.mean == pytest.approx(half_width, rel=0.1)


def test_pairing_cancels_what_is_hard_about_a_task():
    rng = np.random.default_rng(0)
    difficulty = rng.random(100)
    a = {f"task {i}": value for i, value in enumerate(difficulty)}
    b = {task_id: value - 0.05 - 0.01 * rng.random() for task_id, value in reversed(a.items())}
    paired = paired_bootstrap(a, b, **SETTINGS)
    assert 0.05 < paired.low <= paired.mean <= paired.high < 0.06
    unpaired = bootstrap_mean(list(a.values()), **SETTINGS)
    assert paired.high - paired.low < (unpaired.high - unpaired.low) / 10


@given(st.dictionaries(st.text(max_size=3), st.floats(0, 1), min_size=1, max_size=9))
def test_a_method_does_not_differ_from_itself(by_task):
    assert paired_bootstrap(by_task, dict(reversed(by_task.items())), **SETTINGS) == Interval(0.0, 0.0, 0.0, "tasks")


def test_a_paired_comparison_needs_the_same_tasks():
    with pytest.raises(DataError, match="2 have one value only, as b"):
        paired_bootstrap({"a": 1.0, "b": 0.0}, {"a": 1.0, "c": 0.0}, **SETTINGS)


@pytest.mark.parametrize("found", [[], [float("nan")], [float("inf"), 1.0], [[]], [[[1.0]]], 1.0])
def test_values_that_have_no_mean_over_tasks(found):
    with pytest.raises(DataError, match="finite numbers"):
        bootstrap_mean(found, **SETTINGS)


@pytest.mark.parametrize("change", [{"resamples": 0}, {"confidence": 0.0}, {"confidence": 1.0}, {"confidence": 95}])
def test_settings_out_of_range(change):
    with pytest.raises(SettingsError, match="bootstrap="):
        bootstrap_mean([1.0], **(SETTINGS | change))
