"""ScienceWorld: steps per CPU second of this process and its Java virtual machine together, for two ways to play.

sciworld_step_vs_env_step   our engine, which speaks with the simulator's server, against the package's environment:
                            `load` and `reset` for each episode, then `step`, as the released code plays
sciworld_branch_vs_replay   an action from each state of an episode: load and verified replay against the package's way

Both play the expert's episodes, with the simplifications of our tasks and the flag that makes replays exact, each in a
machine that has played them before. Of short episodes the start is a large part, which both ways count.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from importlib import import_module
from itertools import islice
from pathlib import Path
from time import process_time
from typing import Any

import psutil

from benchmarks.rows import Row
from qlass.envs import get_definition
from qlass.envs.core.replay import Replayed
from qlass.envs.sciworld.adapter import SciworldEnv
from qlass.envs.sciworld.golden import GOLDSMITH
from qlass.envs.sciworld.java import FLAGS, find_java
from qlass.envs.sciworld.tasktypes import start_of
from qlass.errors import DependencyNotInstalled
from qlass.records import TaskSpec

SCIWORLD = get_definition("sciworld")

Episode = tuple[TaskSpec, tuple[str, ...]]
"""A task and the actions that solve it."""


def seconds(machine: psutil.Process, work: Callable[[], object]) -> float:
    """Return the CPU seconds of a machine and of this process that some work takes."""

    def spent() -> float:
        times = machine.cpu_times()
        return float(times.user + times.system) + process_time()

    start = spent()
    work()
    return spent() - start


@contextmanager
def package_env() -> Iterator[tuple[Any, psutil.Process]]:
    """Yield the package's own environment on the Java that our engine uses, and its process."""
    before = {name: os.environ.get(name) for name in ("PATH", "JAVA_TOOL_OPTIONS")}
    os.environ["PATH"] = f"{Path(find_java(None).program).parent}{os.pathsep}{before['PATH']}"
    os.environ["JAVA_TOOL_OPTIONS"] = " ".join(FLAGS)
    try:
        env = import_module("scienceworld").ScienceWorldEnv(envStepLimit=200)
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
    try:
        yield env, psutil.Process(env._gateway.java_process.pid)
    finally:
        env.close()


def play(env: Replayed, episodes: list[Episode]) -> list[bool]:
    """Play episodes on our engine; return which were solved."""
    solved = []
    for spec, actions in episodes:
        env.reset(spec)
        *_, last = [env.step(action) for action in actions]
        solved.append(last[4]["success"])
    return solved


def play_package(env: Any, episodes: list[Episode]) -> list[bool]:
    """Play episodes as the released code does."""
    solved = []
    for spec, actions in episodes:
        env.load(*start_of(spec))
        env.reset()
        *_, last = [env.step(action) for action in actions]
        solved.append(last[3]["score"] == 100)
    return solved


def branch(env: Replayed, episodes: list[Episode]) -> None:
    """Go back to each state of the episodes and look around there."""
    for spec, actions in episodes:
        env.reset(spec)
        kept = [env.snapshot()]
        for action in actions[:-1]:
            env.step(action)
            kept.append(env.snapshot())
        for state in kept:
            env.restore(state)
            env.step("look around")


def branch_package(env: Any, episodes: list[Episode]) -> None:
    """The same as the released code does it."""
    for spec, actions in episodes:
        for length in range(len(actions)):
            env.load(*start_of(spec))
            env.reset()
            for action in actions[:length]:
                env.step(action)
            env.step("look around")


def rows(tasks: int = 10, warmup: int = 4, rounds: int = 4) -> list[Row]:
    """Measure both comparisons on the first tasks, of which each is of another type."""
    try:
        engine = SciworldEnv({})
    except DependencyNotInstalled as error:
        print(f"sciworld: left out; {error}")
        return []
    specs = islice(SCIWORLD.panels({}, "train", 0), tasks)
    episodes = [(spec, GOLDSMITH.path(start_of(spec))) for spec in specs]
    GOLDSMITH.close()
    env, machine = Replayed(engine), psutil.Process(engine.pid)
    if not all(all(play(env, episodes)) for _ in range(warmup)):
        raise SystemExit("sciworld: the expert did not solve all tasks")
    ours = seconds(machine, lambda: [play(env, episodes) for _ in range(rounds)])
    ours_branching = seconds(machine, lambda: branch(env, episodes))
    env.close()
    with package_env() as (package, its_machine):
        if not all(all(play_package(package, episodes)) for _ in range(warmup)):
            raise SystemExit("sciworld: the package's environment did not solve all tasks")
        other = seconds(its_machine, lambda: [play_package(package, episodes) for _ in range(rounds)])
        other_branching = seconds(its_machine, lambda: branch_package(package, episodes))
    steps = sum(len(actions) for _, actions in episodes)
    played = f"{tasks} episodes of the expert, {steps} steps, starts counted, {SCIWORLD.label_of({})}"
    return [
        Row.of(
            "sciworld_step_vs_env_step", rounds * steps / ours, rounds * steps / other, "steps per CPU second", played
        ),
        Row.of(
            "sciworld_branch_vs_replay",
            steps / ours_branching,
            steps / other_branching,
            "branches per CPU second",
            f"{played}; one action at each state",
        ),
    ]
