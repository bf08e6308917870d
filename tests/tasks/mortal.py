"""Corridor on engines that note in a file when they are built and closed, and that can break."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import pytest

import tasks.playing.rollouts
from qlass.envs import get_definition
from qlass.envs.core.base import EnvDefinition, Info, StepResult
from qlass.envs.corridor import CorridorEnv
from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec
from tasks.playing import episodes
from tasks.running.shards import Worker


class Mortal(CorridorEnv):
    """An engine that breaks for good, or by a bug, on the second step of a task whose id ends with a given text."""

    def __init__(self, options: Mapping[str, Any], folder: Path, dies_on: str, bug_on: str) -> None:
        super().__init__(options)
        self._folder, self._dies_on, self._bug_on = folder, dies_on, bug_on
        self._task, self._steps, self._dead, self._closed = "", 0, False, False
        self._note("built")

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:
        self._task, self._steps = spec.task_id, 0
        self._check()
        return super().reset(spec, seed=seed)

    def step(self, action: str) -> StepResult:
        self._steps += 1
        if self._steps == 2:
            self._dead |= self._task.endswith(self._dies_on)
            assert not self._task.endswith(self._bug_on), "a bug"
        self._check()
        return super().step(action)

    def close(self) -> None:
        super().close()
        if not self._closed:
            self._closed = True
            self._note("closed")

    def _check(self) -> None:
        if self._dead:
            raise EnvironmentFault("the virtual machine is gone")

    def _note(self, text: str) -> None:
        with (self._folder / "notes").open("a") as file:
            file.write(f"{text}\n")


def notes(folder: Path) -> list[str]:
    """Return what the engines noted."""
    return (folder / "notes").read_text().splitlines()


def definition(folder: Path, max_engines: int = 2, dies_on: str = "never", bug_on: str = "never") -> EnvDefinition:
    """Return corridor with these engines."""
    make = lambda options: Mortal(options, folder, dies_on, bug_on)  # noqa: E731
    return replace(get_definition("corridor"), make=make, max_engines=max_engines)


def offer(monkeypatch: pytest.MonkeyPatch, folder: Path, **given: Any) -> Callable[[], list[str]]:
    """Let this process play on these engines; return what reads their notes."""
    monkeypatch.setattr(tasks.playing.rollouts, "get_definition", lambda name: definition(folder, **given))
    return partial(notes, folder)


def start(setup: tuple[Path, episodes.EvaluationSetup]) -> Worker:
    """Prepare a worker process that plays on these engines."""
    folder, inner = setup
    tasks.playing.rollouts.get_definition = lambda name: definition(folder)
    return episodes.start(inner)
