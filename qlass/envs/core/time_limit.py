"""The one place where step limits live: a wrapper around any `TextEnv`."""

from __future__ import annotations

from typing import NamedTuple

from qlass.envs.core.base import Info, Snapshot, StepResult, TextEnv
from qlass.errors import EnvironmentFault, SettingsError
from qlass.records import TaskSpec


class _Mark(NamedTuple):
    """A snapshot of the wrapped engine and of the wrapper itself."""

    engine: Snapshot
    steps: int
    over: bool


class TimeLimit(TextEnv):
    """End an episode as truncated after `max_steps` steps, unless its last step ends it anyway.

    What the episode is worth by then, `info["outcome"]`, is the reward of that step. The count is part of a snapshot, so
    a branch of a tree has the limit of a whole episode.
    """

    def __init__(self, env: TextEnv, max_steps: int) -> None:
        """Wrap an environment.

        Args:
            env: the engine; it belongs to the wrapper, which closes it.
            max_steps: environment steps per episode, at least 1.

        Raises:
            SettingsError: `max_steps` is below 1.
        """
        if max_steps < 1:
            raise SettingsError(f"max_steps={max_steps} must be at least 1")
        self._env = env
        self._max_steps = max_steps
        self._steps = 0
        self._over = True

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:
        """Start the task with no steps taken."""
        observation, info = self._env.reset(spec, seed=seed)
        self._steps, self._over = 0, False
        return observation, info

    def step(self, action: str) -> StepResult:
        """Execute one action.

        Raises:
            EnvironmentFault: the episode is over, or `reset` was never called.
        """
        if self._over:
            raise EnvironmentFault(f"step({action!r}): there is no episode or it is over; call reset or restore first")
        observation, reward, terminated, truncated, info = self._env.step(action)
        self._steps += 1
        if self._steps >= self._max_steps and not (terminated or truncated):
            reward, truncated = info["outcome"], True
        self._over = terminated or truncated
        return observation, reward, terminated, truncated, info

    def snapshot(self) -> Snapshot:
        """Copy the engine's state together with the number of steps taken."""
        return _Mark(self._env.snapshot(), self._steps, self._over)

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a state copied since the last `reset`, with the steps that were left there."""
        mark: _Mark = snapshot
        self._env.restore(mark.engine)
        self._steps, self._over = mark.steps, mark.over

    def close(self) -> None:
        """Close the engine."""
        self._env.close()
