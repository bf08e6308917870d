"""Branches of one task, side by side or one after the other: the same results, other batches, other replays."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import pytest

from qlass.envs.core.base import EnvDefinition
from qlass.envs.core.replay import Replayed
from qlass.envs.core.time_limit import TimeLimit
from qlass.errors import EnvironmentFault
from qlass.policies.base import Proposed, Score
from qlass.policies.scripted import ScriptedPolicy
from qlass.records import Proposal, Step, TaskSpec
from qlass.search.branch import Cursor, Sampling, roll_out, start, take
from qlass.search.driver import Routine
from tests.engines import drive

from .conftest import MAX_STEPS, OPTIONS, CountedEnv, CountedPolicy

NewEnv = Callable[[], CountedEnv]


def rollouts(definition: EnvDefinition, spec: TaskSpec, count: int) -> Callable[[Any], Routine[list[list[Step]]]]:
    """Return a routine that plays a task several times, as Best-of-N does."""

    def one(env: Any, cursor: Any, name: str) -> Routine[list[Step]]:
        steps = []
        while not cursor.ended:
            answers: list[Proposed] = yield [Sampling(0.7, 0).request(cursor, name, (0,))]
            ((step, cursor),) = yield from take(env, [cursor], [answers[0].proposals[0]])
            steps.append(step)
        return steps

    def routine(env: Any) -> Routine[list[list[Step]]]:
        _, root = start(env, definition, spec)
        return (yield from roll_out(definition, [one(env, root, f"rollout {n}") for n in range(count)]))

    return routine


def test_both_ways_give_the_same(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, wanderer: Any
) -> None:
    replaying, widths = replace(corridor, replays=True), []
    found = []
    for definition in (corridor, replaying):
        before = len(wanderer.batches)
        ((_, played),) = drive([rollouts(definition, specs[0], 5)], [new_env()], wanderer)
        found.append(played)
        widths.append(max(len(batch) for batch in wanderer.batches[before:]))
    assert found[0] == found[1]
    assert len({len(steps) for steps in found[0]}) > 1
    assert widths == [5, 1]


def test_rollouts_from_the_root_replay_nothing(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, wanderer: CountedPolicy
) -> None:
    steps = []
    for definition in (corridor, replace(corridor, replays=True)):
        engine = CountedEnv(corridor.make(OPTIONS))
        count = [0]
        engine.step = counting(engine.step, count)  # type: ignore[method-assign]
        env = TimeLimit(Replayed(engine), MAX_STEPS)
        ((_, played),) = drive([rollouts(definition, specs[0], 4)], [env], wanderer)
        steps.append((count[0], sum(map(len, played))))
    (interleaved, needed), (in_turn, also_needed) = steps
    assert in_turn == needed == also_needed
    assert interleaved > 2 * needed


def counting(call: Callable[..., Any], count: list[int]) -> Callable[..., Any]:
    def counted(*given: Any) -> Any:
        count[0] += 1
        return call(*given)

    return counted


def test_branches_need_not_be_in_step(corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv) -> None:
    """What waits for a model waits until no branch acts any more; then all are answered together."""
    calls: list[int] = []

    class Counting:
        def score(self, requests: Sequence[Score]) -> list[tuple[float, ...]]:
            calls.append(len(requests))
            return [(float(len(request.history)),) for request in requests]

    def branch(env: Any, cursor: Cursor, acts: int) -> Routine[tuple[int, float]]:
        for _ in range(acts):
            ((_, cursor),) = yield from take(env, [cursor], [Proposal("", "", "go nowhere", True, 0, 0.0)])
        (values,) = yield [Score(cursor.history, ("a",))]
        return cursor.depth, values[0]

    def routine(env: Any) -> Routine[list[tuple[int, float]]]:
        _, root = start(env, corridor, specs[0])
        return (yield from roll_out(corridor, [branch(env, root, acts) for acts in (0, 2, 1)]))

    ((_, found),) = drive([routine], [new_env()], ScriptedPolicy(lambda history, rng: "", str), Counting())
    assert (found, calls) == ([(0, 2.0), (2, 6.0), (1, 4.0)], [3])


@pytest.mark.parametrize("replays", [False, True])
def test_a_fault_ends_all_branches(
    corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, wanderer: CountedPolicy, replays: bool
) -> None:
    engine = new_env()
    engine.faults = {(specs[0].task_id, 3): EnvironmentFault("the engine died")}
    with pytest.raises(EnvironmentFault, match="the engine died"):
        list(drive([rollouts(replace(corridor, replays=replays), specs[0], 3)], [engine], wanderer))


def test_no_branches(corridor: EnvDefinition, specs: list[TaskSpec], new_env: NewEnv, wanderer: CountedPolicy) -> None:
    ((_, found),) = drive([rollouts(corridor, specs[0], 0)], [new_env()], wanderer)
    assert found == []
