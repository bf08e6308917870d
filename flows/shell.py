"""The commands of one flow run: they end together, and none outlives the flow. Knows neither Prefect nor DVC."""

from __future__ import annotations

import contextlib
import threading
from typing import TYPE_CHECKING

from qlass.processes import Running

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence
    from pathlib import Path


class CommandsEndedError(RuntimeError):
    """The flow is ending: nothing new is started."""


class Commands:
    """The commands that one flow run has started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[Running] = set()
        self._ended = False

    def run(self, command: Sequence[str], *, cwd: Path, env: Mapping[str, str], on_line: Callable[[str], None]) -> int:
        """Run a command to its end and return its exit code. Whatever interrupts the wait also ends the command.

        Args:
            command: program and arguments; no shell.
            cwd: its working directory.
            env: its whole environment.
            on_line: called with each line of standard output and error, as soon as it is complete.

        Raises:
            CommandsEndedError: `end_all` was called before.
        """
        with self._lock:
            if self._ended:
                raise CommandsEndedError(f"not started, because the flow is ending: {' '.join(command)}")
            running = Running(command, cwd=cwd, env=env)
            self._running.add(running)
        try:
            with running:
                for line in running.lines():
                    on_line(line)
                return running.wait()
        finally:
            with self._lock:
                self._running.discard(running)

    def end_all(self) -> None:
        """End all running commands, and refuse new ones."""
        with self._lock:
            self._ended = True
            commands = list(self._running)
        for running in commands:
            running.ask_to_end()
        for running in commands:
            running.end()

    @contextlib.contextmanager
    def ended_on_error(self) -> Iterator[None]:
        """End all commands when the body is left by an exception: cancellation, Ctrl-C and SIGTERM are exceptions.

        Prefect raises them in the flow's thread only; the threads of submitted tasks would wait for their commands.
        """
        try:
            yield
        except BaseException:
            self.end_all()
            raise
