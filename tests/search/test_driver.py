"""The rollout engine: joined batches, answers in order, faults to the routine that caused them."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import pytest

from qlass.envs.core.base import EnvDefinition
from qlass.envs.core.pool import EnvPool
from qlass.errors import EnvironmentFault, ReplayDivergence, SettingsError
from qlass.policies.base import Propose, Score
from qlass.policies.scripted import ScriptedPolicy, ScriptedValueFunction
from qlass.records import History, Message, TaskSpec
from qlass.search import driver
from qlass.search.driver import Act
from tests.engines import drive
from tests.methods.playing import start as begin

from .conftest import CountedEnv, CountedPolicy

NewEnv = Callable[[], CountedEnv]


def history(text: str) -> History:
    return (Message("user", text),)


def echo() -> CountedPolicy:
    return CountedPolicy(ScriptedPolicy(lambda messages, rng: f"Action: {messages[-1].content}", str))


VALUE = ScriptedValueFunction(lambda messages, reply: float(len(messages[-1].content) + len(reply)))


def asks(name: str, rounds: int) -> Callable[[Any], Any]:
    """Return a routine that asks for two proposals in each round and returns what it got."""

    def start(env: Any) -> Any:
        got = []
        for number in range(rounds):
            answers = yield [Propose(history(f"{name}{number}{half}"), (0,), 0.0) for half in "ab"]
            got.append([answer.proposals[0].action for answer in answers])
        return got

    return start


def test_batches_join_all_routines(new_env: NewEnv) -> None:
    policy = echo()
    found = list(drive([asks("x", 1), asks("y", 3), asks("z", 2)], [new_env() for _ in range(3)], policy))
    assert [len(batch) for batch in policy.batches] == [6, 4, 2]
    assert found == [
        (0, [["x0a", "x0b"]]),
        (2, [["z0a", "z0b"], ["z1a", "z1b"]]),
        (1, [["y0a", "y0b"], ["y1a", "y1b"], ["y2a", "y2b"]]),
    ]


@pytest.mark.parametrize("count", [1, 2, 5, 9])
def test_engines_bound_how_many_run_at_once(new_env: NewEnv, count: int) -> None:
    policy = echo()
    started: list[int] = []

    def starts() -> Iterator[Callable[[Any], Any]]:
        for number in range(5):
            started.append(number)
            yield asks(str(number), 1 + number % 3)

    running = drive(starts(), [new_env() for _ in range(count)], policy)
    first = next(running)
    assert len(started) <= count + 1  # the rest is not even built
    found = dict([first, *running])
    assert max(len(batch) for batch in policy.batches) <= 2 * count
    assert found == {n: [[f"{n}{r}a", f"{n}{r}b"] for r in range(1 + n % 3)] for n in range(5)}


def test_an_engine_belongs_to_one_routine_until_it_ends(new_env: NewEnv) -> None:
    owners: dict[int, list[int]] = {}
    built: list[CountedEnv] = []

    def start(env: Any) -> Any:
        users = owners.setdefault(id(env), [0])
        users[0] += 1
        assert users[0] == 1
        yield from asks("x", 2)(env)
        users[0] -= 1

    def make() -> CountedEnv:
        built.append(new_env())
        return built[-1]

    pool = EnvPool(make)
    assert len(list(driver.drive([start] * 5, pool, echo(), slots=2))) == 5
    assert len(owners) == len(built) == 2
    assert len(list(driver.drive([start] * 5, pool, echo(), slots=3, overlap=True))) == 5
    assert len(owners) == len(built) == 3


@pytest.mark.parametrize("overlap", [False, True])
def test_an_engine_that_raised_is_not_lent_again(new_env: NewEnv, specs: list[TaskSpec], overlap: bool) -> None:
    """Every task finds a working engine, and never are there more than may be."""
    alive: list[CountedEnv] = []
    most, closed = [0], [0]

    class Mortal(CountedEnv):
        def close(self) -> None:
            alive.remove(self)
            closed[0] += 1

    def make() -> CountedEnv:
        engine = Mortal(new_env())
        engine.faults = {(specs[n].task_id, n % 3): EnvironmentFault("the engine died") for n in (1, 2, 5, 9)}
        alive.append(engine)
        most[0] = max(most[0], len(alive))
        return engine

    def start(spec: TaskSpec, env: Any) -> Any:
        try:
            env.reset(spec)
            for _ in range(4):
                yield [Act(env, env.snapshot(), "go nowhere")]
                yield [Propose(history("x"), (0,), 0.0)]
        except EnvironmentFault:
            return "failed"
        return "played"

    pool = EnvPool(make)
    starts = [partial(start, spec) for spec in specs[:12]]
    found = dict(driver.drive(starts, pool, echo(), slots=3, overlap=overlap))
    assert [n for n in range(12) if found[n] == "failed"] == [1, 2, 5, 9]
    assert (most[0], closed[0]) == (3, 4)
    pool.close()
    assert not alive


def test_engines_are_given_back_when_the_drive_breaks_off(new_env: NewEnv) -> None:
    built: list[CountedEnv] = []

    def make() -> CountedEnv:
        built.append(new_env())
        return built[-1]

    def bug(env: Any) -> Any:
        yield [Propose(history("x"), (0,), 0.0)]
        raise ZeroDivisionError

    pool = EnvPool(make)
    with pytest.raises(ZeroDivisionError):
        list(driver.drive([asks("x", 3), bug, asks("y", 3)], pool, echo(), slots=3))
    next(driver.drive([asks("x", 1), asks("y", 3)], pool, echo(), slots=3))  # and the rest is forgotten
    assert len(list(driver.drive([asks("x", 2)] * 5, pool, echo(), slots=3))) == 5
    assert len(built) == 3


def test_kinds_of_requests(new_env: NewEnv, specs: list[TaskSpec]) -> None:
    def start(env: Any) -> Any:
        env.reset(specs[0])
        none = yield []
        (acted,) = yield [Act(env, env.snapshot(), "go nowhere")]
        (answer,) = yield [Propose(history(acted.observation), (0,), 0.0)]
        scores = yield [Score(history("abc"), ("x", "xyz")), Score(history("a"), ("x",))]
        return none, acted.info["valid"], answer.proposals[0].action, scores

    ((_, found),) = drive([start], [new_env()], echo(), VALUE)
    assert found == ([], False, "You cannot do that.", [(4.0, 6.0), (2.0,)])


def test_scores_of_several_routines_in_one_call(new_env: NewEnv) -> None:
    calls: list[int] = []

    class Counting:
        def score(self, requests: Any) -> Any:
            calls.append(len(requests))
            return VALUE.score(requests)

    def start(name: str) -> Callable[[Any], Any]:
        def routine(env: Any) -> Any:
            return (yield [Score(history(name), ("",))])

        return routine

    found = dict(drive([start("a"), asks("x", 1), start("abc")], [new_env() for _ in range(3)], echo(), Counting()))
    assert (calls, found[0], found[2]) == ([2], [(1.0,)], [(3.0,)])


def test_scores_need_a_value_function(new_env: NewEnv) -> None:
    def start(env: Any) -> Any:
        yield [Score(history("a"), ("b",))]

    with pytest.raises(TypeError, match="no value function"):
        list(drive([start], [new_env()], echo()))


@pytest.mark.parametrize("count", [1, 2, 5, 24])
def test_overlap_changes_no_result(
    new_env: NewEnv, corridor: EnvDefinition, specs: list[TaskSpec], wanderer: CountedPolicy, count: int
) -> None:
    """Refilled or not, in halves or together, the same episodes come out."""
    starts = [begin(corridor, spec, "qlass", seed=3) for spec in specs]
    together = dict(drive(starts, [new_env() for _ in starts], wanderer, VALUE))
    assert dict(drive(starts, [new_env() for _ in range(count)], wanderer, VALUE, overlap=True)) == together
    assert dict(drive(starts, [new_env() for _ in range(count)], wanderer, VALUE)) == together


def test_one_half_steps_while_the_model_answers_the_other(new_env: NewEnv, specs: list[TaskSpec]) -> None:
    """Neither could end if they took turns: the model waits for an environment to step, the environment for the model."""
    asked, stepping = threading.Event(), threading.Event()
    met: list[bool] = []

    class Waiting(CountedPolicy):
        def propose(self, requests: Any) -> Any:
            asked.set()
            met.append(stepping.wait(5) if self.batches else True)
            return super().propose(requests)

    class Stepping(CountedEnv):
        def step(self, action: str) -> Any:
            stepping.set()
            met.append(asked.wait(5))
            return super().step(action)

    def start(env: Any) -> Any:
        env.reset(specs[0])
        yield [Propose(history("x"), (0,), 0.0)]
        yield [Act(env, env.snapshot(), "go east")]
        asked.clear()
        yield [Propose(history("y"), (0,), 0.0)]

    engines = [Stepping(new_env()), Stepping(new_env())]
    policy = Waiting(ScriptedPolicy(lambda messages, rng: "Action: go east", str))
    assert len(list(drive([start, start], engines, policy, overlap=True))) == 2
    assert [len(batch) for batch in policy.batches] == [1, 1, 1, 1]
    assert all(met)


def test_acts_start_from_their_state(new_env: NewEnv, specs: list[TaskSpec]) -> None:
    """Two actions from one state do not see each other."""

    def start(env: Any) -> Any:
        env.reset(specs[0])
        state = env.snapshot()
        answers = yield [Act(env, state, action) for action in ("go east", "go west", "go east", "go west")]
        return [answer.observation for answer in answers]

    ((_, found),) = drive([start], [new_env()], echo())
    assert found[:2] == found[2:]
    assert found[0] != found[1]


@pytest.mark.parametrize("fault", [EnvironmentFault("broken"), ReplayDivergence("elsewhere"), SettingsError("no")])
def test_a_fault_reaches_the_routine_that_caused_it(new_env: NewEnv, specs: list[TaskSpec], fault: Exception) -> None:
    def start(env: Any) -> Any:
        env.reset(specs[0])
        try:
            yield [Act(env, env.snapshot(), "go east")]
        except type(fault) as caught:
            (answer,) = yield [Propose(history("on"), (0,), 0.0)]
            return str(caught), answer.proposals[0].action

    broken = new_env()
    broken.faults = {(specs[0].task_id, 1): fault}
    found = dict(drive([start, asks("x", 2)], [broken, new_env()], echo()))
    assert found == {0: (str(fault), "on"), 1: [["x0a", "x0b"], ["x1a", "x1b"]]}


def test_other_errors_end_the_drive(new_env: NewEnv, specs: list[TaskSpec]) -> None:
    def start(env: Any) -> Any:
        env.reset(specs[0])
        yield [Act(env, env.snapshot(), "go east")]

    broken = new_env()
    broken.faults = {(specs[0].task_id, 1): RuntimeError("a bug")}
    with pytest.raises(RuntimeError, match="a bug"):
        list(drive([start], [broken], echo()))


def test_nothing_to_do(new_env: NewEnv) -> None:
    assert list(drive([], [new_env()], echo())) == []
    assert list(drive([asks("x", 0)], [new_env()], echo())) == [(0, [])]
