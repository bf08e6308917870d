"""Intervals over several runs: worked examples, what every one must fulfil, and how often they hold the true mean."""

import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlass.errors import DataError, SettingsError
from qlass.evaluation import (
    Interval,
    bootstrap_mean,
    hierarchical_bootstrap,
    interval_over_runs,
    paired_bootstrap,
    paired_differences,
    t_interval,
)

SETTINGS = {"resamples": 400, "confidence": 0.95, "seed": 0}
tasks = st.lists(st.floats(0, 1), min_size=1, max_size=8)


def apart(*runs):
    """Name the tasks of every run differently: each run has its own."""
    return [{f"{number}/{task}": value for task, value in enumerate(run)} for number, run in enumerate(runs)]


def shared(*runs):
    """Give all runs the same tasks."""
    return [{f"{task}": value for task, value in enumerate(run)} for run in runs]


def width(interval):
    return interval.high - interval.low


@given(tasks, st.integers(0, 5))
def test_one_run_is_the_bootstrap_over_its_tasks(values, seed):
    given_seed = SETTINGS | {"seed": seed}
    plain = bootstrap_mean(values, **given_seed)
    assert plain.over == "tasks"
    assert hierarchical_bootstrap(apart(values), **given_seed) == plain
    assert interval_over_runs(apart(values), **given_seed) == plain


def test_one_run_of_a_paired_comparison_is_the_paired_bootstrap():
    a, b = {"t": 1.0, "u": 0.0, "v": 1.0}, {"u": 0.5, "v": 0.0, "t": 0.0}
    assert interval_over_runs([paired_differences(a, b)], **SETTINGS) == paired_bootstrap(a, b, **SETTINGS)


@pytest.mark.parametrize(
    ("confidence", "low", "high"),
    [(0.98, 0.0, 1.0), (0.90, 0.25, 1.0), (0.50, 0.5, 1.0), (0.30, 0.75, 1.0), (0.10, 0.75, 0.75)],
)
def test_runs_and_tasks_worked_by_hand(confidence, low, high):
    # Runs A = (0, 1) and B = (1, 1). AA is a quarter of the draws: four coins, so (0, 1, 2, 3, 4) / 4 with 1, 4, 6, 4,
    # 1 in 16. AB and BA are a half: two coins and two ones, so (2, 3, 4) / 4 with 1, 2, 1 in 4. BB is a quarter: 1.
    # In 64ths: 0 has 1, 0.25 has 4, 0.5 has 6 + 8, 0.75 has 4 + 16, 1 has 1 + 8 + 16; summed up 1, 5, 19, 39, 64.
    found = hierarchical_bootstrap(apart([0, 1], [1, 1]), resamples=20_000, confidence=confidence, seed=0)
    assert found == Interval(0.75, low, high, "tasks and runs")


def test_tasks_that_runs_share_worked_by_hand():
    # Runs A = (0, 1) and B = (0, 1) on the same two tasks: whichever runs are drawn, the mean is that of the drawn
    # tasks, 0, 0.5 or 1 with 1, 2, 1 in 4. With tasks of their own, 0 and 1 have 1 in 16 each, 0.25 and 0.75 have 4.
    settings = {"resamples": 20_000, "confidence": 0.6, "seed": 0}
    assert hierarchical_bootstrap(shared([0, 1], [0, 1]), **settings) == Interval(0.5, 0.0, 1.0, "tasks and runs")
    assert hierarchical_bootstrap(apart([0, 1], [0, 1]), **settings) == Interval(0.5, 0.25, 0.75, "tasks and runs")


def test_every_run_weighs_the_same():
    found = interval_over_runs(apart([0.0], [1.0] * 99), **SETTINGS)
    assert found.mean == 0.5
    assert (found.low, found.high) == (
        pytest.approx(0.5 - 12.706 / 2, abs=1e-3),
        pytest.approx(0.5 + 12.706 / 2, abs=1e-3),
    )


def test_the_published_three_seeds():
    # QLASS minus SFT by seed, as published. The mean is 6.43, the standard deviation 5.05, t is 4.303: 12.5 each way.
    found = t_interval([8.4, 0.7, 10.2], confidence=0.95)
    assert found.over == "runs"
    assert [round(value, 1) for value in (found.mean, found.low, found.high)] == [6.4, -6.1, 19.0]


@given(st.lists(tasks, min_size=2, max_size=4))
def test_the_bootstrap_holds_possible_means(runs):
    found = hierarchical_bootstrap(apart(*runs), **SETTINGS)
    every = [value for run in runs for value in run]
    assert found.mean == pytest.approx(np.mean([np.mean(run) for run in runs]))
    assert min(every) - 1e-9 <= found.low <= found.high <= max(every) + 1e-9


@given(st.lists(tasks, min_size=2, max_size=4), st.randoms(use_true_random=False))
def test_neither_the_order_of_runs_nor_of_tasks_matters(runs, rng):
    cut = [run[: min(map(len, runs))] for run in runs]
    for given_runs in (apart(*runs), shared(*cut)):
        mixed = [dict(rng.sample(list(run.items()), len(run))) for run in given_runs]
        mixed = rng.sample(mixed, len(mixed))
        assert hierarchical_bootstrap(mixed, **SETTINGS) == hierarchical_bootstrap(given_runs, **SETTINGS)
        assert interval_over_runs(mixed, **SETTINGS) == interval_over_runs(given_runs, **SETTINGS)


@given(st.lists(tasks, min_size=2, max_size=4))
def test_the_published_interval_holds_both_others(runs):
    found = interval_over_runs(apart(*runs), **SETTINGS)
    drawn = hierarchical_bootstrap(apart(*runs), **SETTINGS)
    student = t_interval([float(np.mean(run)) for run in runs], confidence=0.95)
    assert found.low == pytest.approx(min(drawn.low, student.low))
    assert found.high == pytest.approx(max(drawn.high, student.high))
    assert found.over == "tasks and runs"


@given(tasks, st.sampled_from([2, 3]))
def test_runs_that_differ_widen_the_interval(values, count):
    # The runs are alike but for a constant, which the tasks cannot explain: all tasks lie in [0, 1]. The lowest run
    # alone is drawn in 1 of 4 or of 27 cases, which is more than the 2.5 % outside, so the ends are outermost runs'.
    alike = apart(*[values] * count)
    shifted = apart(*[[value + 10 * number for value in values] for number in range(count)])
    more = SETTINGS | {"resamples": 2000}
    for method in (hierarchical_bootstrap, interval_over_runs):
        assert width(method(shifted, **more)) > 10 * (count - 1) - 1 > width(method(alike, **more))
    assert width(bootstrap_mean([v for run in shifted for v in run.values()], **more)) < width(
        interval_over_runs(shifted, **more)
    )


def test_more_runs_alike_narrow_the_interval_unless_their_tasks_are_the_same():
    values = np.random.default_rng(0).random(200)
    settings = SETTINGS | {"resamples": 4000}
    one = width(bootstrap_mean(values, **settings))
    assert width(hierarchical_bootstrap(apart(*[values] * 4), **settings)) == pytest.approx(one / 2, rel=0.05)
    assert width(hierarchical_bootstrap(shared(*[values] * 4), **settings)) == pytest.approx(one, rel=0.05)


def test_the_width_is_that_of_both_variances():
    # (k - 1) / k of the variance between the means of k runs, and the mean variance within, both over k.
    rng = np.random.default_rng(0)
    runs = [mean + rng.standard_normal(50) for mean in rng.standard_normal(30)]
    between = np.var([run.mean() for run in runs])  # over k, not over k - 1
    within = np.mean([run.var() / len(run) for run in runs])
    found = hierarchical_bootstrap(apart(*runs), resamples=8000, confidence=0.95, seed=0)
    assert width(found) / 2 == pytest.approx(1.96 * math.sqrt((between + within) / len(runs)), rel=0.05)


def share_that_holds_the_truth(method):
    """Return how often an interval holds 0, the mean of three runs that differ twice as much as tasks explain."""
    rng = np.random.default_rng(0)
    held = 0
    for _ in range(400):
        runs = 2 * rng.standard_normal((3, 1)) + 6 * rng.standard_normal(
            (3, 36)
        )  # (runs, tasks): 2 against 6 / sqrt(36)
        found = method(apart(*runs))
        held += found.low <= 0 <= found.high
    return held / 400


def test_how_often_the_intervals_of_three_runs_hold_the_true_mean():
    settings = {"resamples": 200, "confidence": 0.95, "seed": 0}

    def as_one_sample(runs):
        return bootstrap_mean([value for run in runs for value in run.values()], **settings)

    assert share_that_holds_the_truth(as_one_sample) < 0.65
    assert 0.80 < share_that_holds_the_truth(partial(hierarchical_bootstrap, **settings)) < 0.88
    assert share_that_holds_the_truth(partial(interval_over_runs, **settings)) > 0.94


@pytest.mark.parametrize(
    ("runs", "message"),
    [
        ([], "no runs"),
        ([{}], "finite numbers"),
        ([{"a": 1.0}, {}], "run 2 of 2: 0 values"),
        ([{"a": 1.0}, {"b": math.nan}], "run 2 of 2: 1 values; one or more finite numbers"),
        ([{"a": 1.0, "b": 0.0}, {"b": 1.0}], "2 runs with 2, 1 tasks, 2 of them different"),
        ([{"a": 1.0, "b": 0.0}, {"b": 1.0, "c": 1.0}], "3 of them different; runs need all tasks in common or none"),
    ],
)
def test_runs_that_have_no_mean_or_share_some_tasks(runs, message):
    with pytest.raises(DataError, match=message):
        interval_over_runs(runs, **SETTINGS)


@pytest.mark.parametrize("means", [[], [1.0], [1.0, math.inf]])
def test_a_t_interval_needs_two_means(means):
    with pytest.raises(DataError, match="two or more finite numbers"):
        t_interval(means, confidence=0.95)


@pytest.mark.parametrize("change", [{"resamples": 0}, {"confidence": 1.0}])
@pytest.mark.parametrize("runs", [apart([1.0]), apart([1.0], [0.0])])
def test_settings_out_of_range(runs, change):
    with pytest.raises(SettingsError, match="bootstrap="):
        interval_over_runs(runs, **(SETTINGS | change))


def test_a_confidence_out_of_range():
    with pytest.raises(SettingsError, match="confidence=95"):
        t_interval([0.0, 1.0], confidence=95)
