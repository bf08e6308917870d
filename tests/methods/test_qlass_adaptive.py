"""What `qlass_adaptive` adds to QLASS: the prior, and more proposals where the value falls."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlass.envs.core.base import EnvDefinition
from qlass.methods.qlass_adaptive import enough
from qlass.prompts import parse_reply
from qlass.records import History, TaskSpec
from tests.methods.playing import CountedValue, NewEnv, Run, Written, actions_of, optimal, start
from tests.search.conftest import MAX_STEPS, CountedPolicy


def test_with_nothing_to_add_it_is_qlass(
    corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, new_env: NewEnv, run: Run
) -> None:
    for spec in specs[:4]:
        value = optimal(spec, corridor)
        (plain,) = run(start(corridor, spec, "qlass", seed=4), new_env(), wanderer, value)
        (same,) = run(start(corridor, spec, "qlass_adaptive", seed=4), new_env(), wanderer, value)
        assert same == replace(plain, method="qlass_adaptive")


@pytest.mark.parametrize(
    ("prior", "chosen"), [(0.0, "go west"), (0.09, "go west"), (0.11, "go east"), (0.5, "take lamp")]
)
def test_the_prior_is_added_to_the_q_value(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run, prior: float, chosen: str
) -> None:
    """Q 0.9, 0.8 and 0.5 with log p -3, -2 and -1: the first leads below 0.1, the last from 0.3 on."""
    values = {"go west": 0.9, "go east": 0.8, "take lamp": 0.5}
    policy = Written(corridor, {"go west": -3.0, "go east": -2.0, "take lamp": -1.0})
    value = CountedValue(lambda history, reply: values[parse_reply(reply)[1]])
    (episode,) = run(start(corridor, specs[0], "qlass_adaptive", prior=prior), new_env(), policy, value)
    assert set(actions_of(episode)) == {chosen}
    assert set(episode.candidates) == {tuple(values.items())}


def test_redraws_where_all_values_fall(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run
) -> None:
    """Step 1 has the value 0.8. At step 2 the first draws are worth 0.3, below half of it; the second redraw is enough."""
    first, again, found = (
        {"go west": -1.0},
        {"take lamp": -1.0, "go west": -9.0},
        {"go east": -1.0, "take key": -1.0},
    )
    policy = Written(corridor, first, again, found)

    def worth(history: History, reply: str) -> float:
        step = len(history) // 2 - 1
        values = {"go west": 0.8 if step == 0 else 0.3, "take lamp": 0.39, "go east": 0.4, "take key": 0.1}
        return values[parse_reply(reply)[1]] * (1.0 if step < 2 else 0.9**step)

    value = CountedValue(worth)
    changes = {"proposals": 2, "max_redraws": 3, "redraw_below": 0.5, "redraw_temperature": 1.5}
    env = new_env()
    (episode,) = run(start(corridor, specs[0], "qlass_adaptive", **changes), env, policy, value)
    assert env.executed[:2] == ["go west", "go east"]
    assert episode.candidates[0] == (("go west", 0.8),)
    assert episode.candidates[1] == (("go west", 0.3), ("take lamp", 0.39), ("go east", 0.4), ("take key", 0.1))
    one, two = policy.asked[:2]
    assert [request.temperature for request in two] == [0.7, 1.5, 1.5]
    assert len(one) == 1
    assert len({seed for request in two for seed in request.seeds}) == 6
    assert [len(request.replies) for request in value.requests[:4]] == [1, 1, 1, 2]  # nothing is scored twice
    assert episode.cost.policy_calls == sum(map(len, policy.asked))
    assert episode.cost.qnet_calls == value.scored == sum(map(len, episode.candidates))


def test_redraws_end(corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run) -> None:
    """Where nothing better is found, the best of all that was drawn is executed; the next step starts from its value."""
    policy = Written(corridor, *[{"go west": -1.0}] * 3)
    value = CountedValue(lambda history, reply: 0.8 if len(history) == 2 else 0.1)
    begin = start(corridor, specs[0], "qlass_adaptive", proposals=1, max_redraws=2, redraw_below=0.5)
    (episode,) = run(begin, new_env(), policy, value)
    assert [len(requests) for requests in policy.asked] == [1, 3, *[1] * (MAX_STEPS - 2)]
    assert set(actions_of(episode)) == {"go west"}
    assert episode.cost.qnet_calls == MAX_STEPS


VALUES = st.one_of(st.just(-math.inf), st.floats(-1e6, 1e6))
SHARES = st.floats(0.0, 1.0)


@given(last=VALUES, share=SHARES)
def test_enough_is_never_more_than_the_last_value(last: float, share: float) -> None:
    """A share of a negative value lies above it: with the value that a step had before, the next one must be content."""
    wanted = enough(last, share)
    assert wanted <= last
    assert wanted == (share * last if last >= 0 else last)


@given(values=st.tuples(VALUES, VALUES), share=SHARES)
def test_enough_grows_with_the_last_value(values: tuple[float, float], share: float) -> None:
    low, high = sorted(values)
    assert enough(low, share) <= enough(high, share)


@pytest.mark.parametrize(
    ("factor", "asked"), [(0.9, [1] * MAX_STEPS), (1.0, [1] * MAX_STEPS), (1.1, [1, *[3] * (MAX_STEPS - 1)])]
)
def test_negative_values_that_do_not_fall_are_enough(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, run: Run, factor: float, asked: list[int]
) -> None:
    """From -0.5 on, the value of each step is `factor` times that of the step before: it rises, stays, or falls."""
    policy = Written(corridor, *[{"go west": -1.0}] * 3)
    value = CountedValue(lambda history, reply: -0.5 * factor ** (len(history) // 2 - 1))
    begin = start(corridor, specs[0], "qlass_adaptive", proposals=1, max_redraws=2, redraw_below=0.5)
    (episode,) = run(begin, new_env(), policy, value)
    assert [len(requests) for requests in policy.asked] == asked
    assert episode.cost.policy_calls == sum(asked)
