"""The step limit: one wrapper, part of a snapshot."""

import pytest

from qlass.envs.core.contract import check_result
from qlass.envs.core.time_limit import TimeLimit
from qlass.errors import EnvironmentFault, SettingsError
from qlass.records import TaskSpec

SPEC = TaskSpec("toy/train/0", "toy", "train", "count", {"goal": 3})


@pytest.fixture
def limited(toy):
    """Return a function that makes a started toy with a step limit."""

    def make(max_steps):
        env = TimeLimit(toy().make({}), max_steps)
        env.reset(SPEC)
        return env

    return make


def ends(env, *actions):
    """Return (terminated, truncated) after each action."""
    return [env.step(action)[2:4] for action in actions]


def test_the_limit_truncates(limited):
    assert ends(limited(2), "up", "up") == [(False, False), (False, True)]


def test_an_end_at_the_limit_is_no_truncation(limited):
    assert ends(limited(3), "up", "up", "up") == [(False, False), (False, False), (True, False)]


def test_an_action_that_is_not_understood_counts(limited):
    assert ends(limited(2), "what", "up") == [(False, False), (False, True)]


def test_the_last_step_keeps_its_answer(limited):
    assert limited(1).step("up")[:2] == ("1", 0.0)


@pytest.mark.parametrize(("steps", "paid"), [(1, 0.25), (2, 0.5), (3, 1.0)])
def test_a_truncated_episode_pays_what_it_is_worth_by_then(toy, steps, paid):
    def step(self, action):
        self.count += 1
        over = self.count == self.goal
        worth = 1.0 if over else self.count / 4
        return "on", float(over), over, False, self.info(success=over, outcome=worth)

    env = TimeLimit(toy(step=step).make({}), steps)
    env.reset(SPEC)
    results = [env.step("up") for _ in range(steps)]
    assert [result[1] for result in results] == [*[0.0] * (steps - 1), paid]
    for result in results:
        check_result("up", result)


def test_a_limit_of_the_engine_is_kept(toy):
    def step(self, action):
        return "too slow", 0.0, False, True, self.info()

    env = TimeLimit(toy(step=step).make({}), 9)
    env.reset(SPEC)
    assert ends(env, "up") == [(False, True)]


@pytest.mark.parametrize("max_steps", [2, 3])
def test_no_steps_after_the_end(limited, max_steps):
    env = limited(max_steps)
    ends(env, *["up"] * max_steps)
    with pytest.raises(EnvironmentFault, match=r"step\('up'\): there is no episode or it is over"):
        env.step("up")


def test_no_steps_before_reset(toy):
    with pytest.raises(EnvironmentFault, match="call reset"):
        TimeLimit(toy().make({}), 2).step("up")


def test_reset_starts_a_new_count(limited):
    env = limited(2)
    ends(env, "up", "up")
    env.reset(SPEC)
    assert ends(env, "up", "up") == [(False, False), (False, True)]


def test_restore_returns_to_the_count_of_the_snapshot(limited):
    env = limited(3)
    ends(env, "up")
    one = env.snapshot()
    assert ends(env, "down", "down") == [(False, False), (False, True)]
    end = env.snapshot()
    env.restore(one)
    assert ends(env, "up", "up") == [(False, False), (True, False)]
    env.restore(end)
    with pytest.raises(EnvironmentFault, match="it is over"):
        env.step("up")


def test_close_reaches_the_engine(toy):
    closed = []
    TimeLimit(toy(close=lambda self: closed.append(self)).make({}), 2).close()
    assert len(closed) == 1


@pytest.mark.parametrize("max_steps", [0, -1])
def test_a_limit_below_one_step(toy, max_steps):
    with pytest.raises(SettingsError, match=f"max_steps={max_steps} must be at least 1"):
        TimeLimit(toy().make({}), max_steps)
