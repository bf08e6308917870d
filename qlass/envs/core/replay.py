"""`Replayed`: gives `snapshot` and `restore` to an engine that cannot copy its state, by verified replay."""

from __future__ import annotations

from typing import Protocol

from qlass.envs.core.base import Info, Snapshot, StepResult, TextEnv
from qlass.errors import EnvironmentFault, ReplayDivergence
from qlass.records import TaskSpec


class Resettable(Protocol):
    """A `TextEnv` without `snapshot` and `restore`; see there."""

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:
        """Start the task."""

    def step(self, action: str) -> StepResult:
        """Execute one action."""

    def close(self) -> None:
        """Free the engine."""


class Replayed(TextEnv):
    """An engine whose snapshot is the list of actions so far; `restore` starts again and executes them.

    What the replay returns must equal what was recorded, or the tree would continue a state that is not the node's
    (the released code's first bug, method.md section 7).
    """

    def __init__(self, engine: Resettable) -> None:
        """Wrap an engine; it belongs to the wrapper, which closes it."""
        self._engine = engine
        self._start: tuple[TaskSpec, int] | None = None
        self._past: tuple[tuple[str, StepResult], ...] = ()

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:
        """Start the task with no past."""
        self._start, self._past = (spec, seed), ()
        return self._engine.reset(spec, seed=seed)

    def step(self, action: str) -> StepResult:
        """Execute one action and remember what it returned."""
        result = self._engine.step(action)
        self._past = (*self._past, (action, result))
        return result

    def snapshot(self) -> Snapshot:
        """Return the actions so far with what they returned."""
        return self._past

    def restore(self, snapshot: Snapshot) -> None:
        """Execute the actions of a snapshot again, from the start.

        Raises:
            ReplayDivergence: an action returns something else than before; names the task, the step and both.
            EnvironmentFault: `reset` was never called.
        """
        if self._start is None:
            raise EnvironmentFault("restore: there is no episode; call reset first")
        if snapshot is self._past:  # the engine stands there already: a plain rollout costs no replay
            return
        spec, seed = self._start
        self._engine.reset(spec, seed=seed)
        for number, (action, recorded) in enumerate(snapshot, start=1):
            found = self._engine.step(action)
            if found != recorded:
                raise ReplayDivergence(f"{spec.task_id}: step {number} ({action!r}) gave {recorded}, now {found}")
        self._past = snapshot

    def close(self) -> None:
        """Close the engine."""
        self._engine.close()
