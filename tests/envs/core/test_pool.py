"""Lent environments: built late, used again, closed in the end, and never again after an error."""

import pytest

from qlass.envs.core.pool import EnvPool
from qlass.records import TaskSpec
from tests.envs.conftest import Counter

SPEC = TaskSpec("toy/train/0", "toy", "train", "count", {"goal": 3})


class Machine(Counter):
    """An engine that lists itself as long as it lives, and raises what it is told."""

    alive: list["Machine"]

    def __init__(self):
        super().__init__({})
        self.error = None
        self.closed = 0
        self.alive.append(self)

    def step(self, action):
        self._work()
        return super().step(action)

    def reset(self, spec, *, seed=0):
        self._work()
        return super().reset(spec, seed=seed)

    def snapshot(self):
        self._work()
        return super().snapshot()

    def restore(self, snapshot):
        self._work()
        super().restore(snapshot)

    def close(self):
        self.closed += 1
        if self.closed == 1:
            self.alive.remove(self)

    def _work(self):
        if self.error is not None:
            raise self.error


@pytest.fixture
def alive():
    Machine.alive = []
    return Machine.alive


def test_nothing_is_built_before_it_is_needed_nor_twice(alive):
    pool = EnvPool(Machine)
    assert not alive
    one, two = pool.take(), pool.take()
    assert len(alive) == 2
    pool.give_back(one)
    assert pool.take() is one
    pool.give_back(one)
    pool.give_back(two)
    assert {pool.take(), pool.take()} == {one, two}
    assert len(alive) == 2


CALLS = {
    "reset": lambda env: env.reset(SPEC),
    "step": lambda env: env.step("up"),
    "snapshot": lambda env: env.snapshot(),
    "restore": lambda env: env.restore(0),
}


@pytest.mark.parametrize("call", CALLS)
@pytest.mark.parametrize("error", [RuntimeError("dead"), KeyboardInterrupt()])
def test_an_engine_that_raised_is_closed_and_replaced(alive, call, error):
    pool = EnvPool(Machine)
    env = pool.take()
    env.reset(SPEC)
    (engine,) = alive
    engine.error = error
    with pytest.raises(type(error)):
        CALLS[call](env)
    engine.error = None  # it would work again, but nobody knows what state it is in
    pool.give_back(env)
    assert (alive, engine.closed) == ([], 1)
    new = pool.take()
    assert new is not env
    assert new.reset(SPEC)[0] == "Count to 3."
    assert len(alive) == 1


def test_close_reaches_all_also_where_one_fails(alive):
    pool = EnvPool(Machine)
    for env in [pool.take() for _ in range(3)][1:]:
        pool.give_back(env)
    first, last = alive[0], alive[-1]

    def fail():
        Machine.close(last)
        raise RuntimeError("cannot be closed")

    last.close = fail
    with pytest.raises(RuntimeError, match="cannot be closed"):
        pool.close()
    assert (alive, first.closed) == ([], 1)
    pool.close()
    assert first.closed == 1


def test_an_environment_of_the_pool_answers_as_the_engine_itself(alive, toy):
    env, plain = EnvPool(Machine).take(), toy().make({})
    for each in (env, plain):
        each.reset(SPEC)
        each.step("up")
    state, other = env.snapshot(), plain.snapshot()
    assert env.step("up") == plain.step("up")
    env.restore(state)
    plain.restore(other)
    assert [env.step("up") for _ in range(2)] == [plain.step("up") for _ in range(2)]
