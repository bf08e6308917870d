"""`EnvPool`: the environments of a process, lent to one episode after another and closed in the end."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager

from qlass.envs.core.base import Info, Snapshot, StepResult, TextEnv
from qlass.records import TaskSpec


class Watched(TextEnv):
    """An environment that knows whether it ever raised an error; what state its engine is in then, nobody knows.

    Attributes:
        broken: it raised an error.
    """

    def __init__(self, env: TextEnv) -> None:
        """Wrap an environment; it belongs to the wrapper, which closes it."""
        self._env = env
        self.broken = False

    @contextmanager
    def _watch(self) -> Iterator[None]:
        try:
            yield
        except BaseException:  # an interrupt, too, leaves a step half done
            self.broken = True
            raise

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:
        """Start the task."""
        with self._watch():
            return self._env.reset(spec, seed=seed)

    def step(self, action: str) -> StepResult:
        """Execute one action."""
        with self._watch():
            return self._env.step(action)

    def snapshot(self) -> Snapshot:
        """Copy the engine's state."""
        with self._watch():
            return self._env.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a state copied since the last `reset`."""
        with self._watch():
            self._env.restore(snapshot)

    def close(self) -> None:
        """Close the engine."""
        self._env.close()


class EnvPool:
    """Environments that are built when they are first needed, and used again unless they raised an error.

    It never holds more of them than were lent at one time: one that raised is closed before another is built.
    """

    def __init__(self, make: Callable[[], TextEnv]) -> None:
        """Start with none.

        Args:
            make: builds an environment.
        """
        self._make = make
        self._free: list[Watched] = []
        self._lent: list[Watched] = []

    def take(self) -> Watched:
        """Lend an environment, which may be in the middle of an episode: its user begins with `reset`."""
        env = self._free.pop() if self._free else Watched(self._make())
        self._lent.append(env)
        return env

    def give_back(self, env: Watched) -> None:
        """Take an environment back for the next user, or close it where it raised an error."""
        self._lent.remove(env)
        if env.broken:
            env.close()
        else:
            self._free.append(env)

    def close(self) -> None:
        """Close all environments, the lent ones too; calling it twice is fine."""
        with ExitStack() as closing:  # goes on where one of them fails
            for env in (*self._free, *self._lent):
                closing.callback(env.close)
            self._free, self._lent = [], []
