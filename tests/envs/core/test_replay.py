"""Snapshots by replay: the same as real ones, or a named error."""

import pytest

from qlass.envs.core.checker import check_env
from qlass.envs.core.replay import Replayed
from qlass.errors import EnvironmentFault, ReplayDivergence
from qlass.records import TaskSpec

SPEC = TaskSpec("toy/train/0", "toy", "train", "count", {"goal": 3})


def test_an_engine_without_snapshots_keeps_the_contract(toy):
    engine = toy(snapshot=None, restore=None)
    assert check_env(toy(make=lambda options: Replayed(engine.make(options))), {})


def test_restore_executes_the_actions_again(toy):
    env = Replayed(toy().make({}))
    env.reset(SPEC)
    env.step("up")
    one = env.snapshot()
    env.step("down")
    env.restore(one)
    assert env.step("up")[0] == "2"
    env.restore(one)
    assert env.step("up")[0] == "2"


def test_another_answer_is_an_error(toy):
    answers = iter(["1", "2", "one"])

    def step(self, action):
        return next(answers), 0.0, False, False, self.info()

    env = Replayed(toy(step=step).make({}))
    env.reset(SPEC)
    env.step("up")
    one = env.snapshot()
    env.step("up")
    with pytest.raises(ReplayDivergence, match=r"toy/train/0: step 1 \('up'\) gave \('1', .*, now \('one', "):
        env.restore(one)


def test_going_on_needs_no_replay(toy):
    resets = []
    original = toy().make.reset

    def reset(self, spec, *, seed=0):
        resets.append(spec)
        return original(self, spec, seed=seed)

    env = Replayed(toy(reset=reset).make({}))
    env.reset(SPEC)
    for _ in range(3):
        env.restore(env.snapshot())
        env.step("up")
    assert len(resets) == 1


def test_restore_before_reset(toy):
    with pytest.raises(EnvironmentFault, match="call reset first"):
        Replayed(toy().make({})).restore(())
