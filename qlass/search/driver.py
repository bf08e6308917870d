"""The rollout engine: many search routines advance in lock step, their model calls joined into batches.

A routine (one tree, one evaluated episode) is a generator written as if it were alone: it yields a list of requests and
is sent the list of answers. The driver keeps a number of routines alive, starts the next one as soon as one ends,
executes environment steps at once (or beside the models, see `overlap`), and answers all pending proposals, then all
pending scores, in one call each.
"""

from __future__ import annotations

from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import nullcontext
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeAlias, TypeVar

from qlass.envs.core.base import Info, Snapshot, TextEnv
from qlass.envs.core.pool import EnvPool, Watched
from qlass.errors import QlassError
from qlass.policies.base import Policy, Propose, Score, ValueFunction

Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Act:
    """Ask for one environment step from a state of the episode.

    Attributes:
        env: the routine's environment.
        state: where to step from (a snapshot of the current episode).
        action: what to execute.
    """

    env: TextEnv
    state: Snapshot
    action: str


@dataclass(frozen=True, slots=True)
class Acted:
    """The answer to `Act`: the environment's answer and a snapshot of the new state."""

    observation: str
    reward: float
    terminated: bool
    truncated: bool
    info: Info
    state: Snapshot


Request: TypeAlias = Propose | Score | Act
Routine: TypeAlias = Generator[Sequence[Request], list[Any], Result]
"""Yields requests of one kind at a time; is sent `Proposed`, tuples of floats, or `Acted`, in the same order."""


@dataclass(slots=True)
class _Live:
    """A routine that waits for answers; `answers` is None until its first requests are answered."""

    order: int
    routine: Routine[Any]
    env: Watched
    waiting: Sequence[Request] = ()
    answers: list[Any] | None = None


@dataclass(slots=True)
class _Group:
    """Routines that advance together.

    Attributes:
        slots: how many they may be.
        running: each routine with what it will have reached: (ended, result).
    """

    slots: int
    running: list[tuple[_Live, Callable[[], tuple[bool, Any]]]] = field(default_factory=list)


def drive(
    starts: Iterable[Callable[[TextEnv], Routine[Result]]],
    envs: EnvPool,
    policy: Policy,
    value: ValueFunction | None = None,
    *,
    slots: int,
    overlap: bool = False,
) -> Iterator[tuple[int, Result]]:
    """Run routines to their ends.

    Args:
        starts: builds a routine on an environment that is its own until it ends.
        envs: lends the environments; has all of them back in the end, whatever happens.
        policy: answers `Propose`.
        value: answers `Score`; may be None where no routine asks for scores.
        slots: routines, and so environments, alive at a time, at least 1.
        overlap: the routines form two halves; while the models answer one half, a thread executes the environment steps of
            the other. It pays where environments wait for something outside this process (a virtual machine, a server).

    Yields:
        (position in `starts`, result), in order of completion, which depends on nothing but the arguments.
    """
    queue = enumerate(starts)
    groups = [_Group(slots - slots // 2), _Group(slots // 2)] if overlap else [_Group(slots)]
    lent: dict[int, Watched] = {}

    def advance(group: _Group, live: list[_Live]) -> None:
        """Start routines in the free slots, and let all run on: in the thread, or when they are asked for."""
        while len(live) < group.slots and (entry := next(queue, None)) is not None:
            order, start = entry
            lent[order] = env = envs.take()
            live.append(_Live(order, start(env), env))
        group.running = [
            (one, thread.submit(_run_to_model, one).result if thread is not None else partial(_run_to_model, one))
            for one in live
        ]

    try:
        with ThreadPoolExecutor(1, "qlass-environments") if overlap else nullcontext() as thread:
            for group in groups:
                advance(group, [])
            while any(group.running for group in groups):
                for group in groups:
                    waiting = []
                    for one, reached in group.running:
                        ended, result = reached()
                        if ended:
                            envs.give_back(lent.pop(one.order))
                            yield one.order, result
                        else:
                            waiting.append(one)
                    _answer(waiting, policy, value)
                    advance(group, waiting)
    finally:
        for env in lent.values():
            envs.give_back(env)


def _run_to_model(one: _Live) -> tuple[bool, Any]:
    """Let a routine run until it waits for a model; return (ended, result)."""
    try:
        one.waiting = next(one.routine) if one.answers is None else one.routine.send(one.answers)
        while acts := [request for request in one.waiting if isinstance(request, Act)]:
            try:
                answers = [_act(request) for request in acts]
            except QlassError as fault:
                one.waiting = one.routine.throw(fault)
                continue
            one.waiting = one.routine.send(answers)
    except StopIteration as end:
        return True, end.value
    return False, None


def _act(request: Act) -> Acted:
    request.env.restore(request.state)
    observation, reward, terminated, truncated, info = request.env.step(request.action)
    return Acted(observation, reward, terminated, truncated, info, request.env.snapshot())


def _answer(live: list[_Live], policy: Policy, value: ValueFunction | None) -> None:
    """Answer each routine's requests, one batched call per kind."""
    proposals = [request for one in live for request in one.waiting if isinstance(request, Propose)]
    scores = [request for one in live for request in one.waiting if isinstance(request, Score)]
    proposed = iter(policy.propose(proposals) if proposals else [])
    if scores and value is None:
        raise TypeError("a routine asks for scores, but drive() was given no value function")
    scored = iter(value.score(scores) if scores and value is not None else [])
    for one in live:
        one.answers = [next(proposed) if isinstance(request, Propose) else next(scored) for request in one.waiting]
