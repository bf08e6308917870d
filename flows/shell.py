"""Run commands with their output as it is written, and leave no process behind.

Knows neither Prefect nor DVC. A command lives in its own session under `supervise.py`, which ends the whole tree of
processes as soon as we ask for it or die.
"""

from __future__ import annotations

import contextlib
import os
import selectors
import signal
import subprocess
import sys
import threading
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Mapping, Sequence

SUPERVISOR = Path(__file__).with_name("supervise.py")
POLL_S = 0.5  # lets an exception that Prefect sends to the thread (timeout) in while the command is silent
END_S = 35  # the supervisor's two grace periods, and some
MAX_LINE = 4000  # bytes; the log of a run page holds no longer lines


class CommandsEndedError(RuntimeError):
    """The flow is ending: nothing new is started."""


class Commands:
    """The commands that one flow run has started."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._running: set[subprocess.Popen[bytes]] = set()
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
            process = start(command, cwd=cwd, env=env)
            self._running.add(process)
        try:
            for line in lines_of(process):
                on_line(line)
            return process.wait(END_S)
        finally:
            end(process)
            process.stdout.close()
            with self._lock:
                self._running.discard(process)

    def end_all(self) -> None:
        """End all running commands, and refuse new ones."""
        with self._lock:
            self._ended = True
            running = list(self._running)
        for process in running:
            close_input(process)
        for process in running:
            end(process)

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


def start(command: Sequence[str], *, cwd: Path, env: Mapping[str, str]) -> subprocess.Popen[bytes]:
    """Start a command under the supervisor, in its own session, with pipes for its input and output."""
    return subprocess.Popen(
        [sys.executable, "-I", str(SUPERVISOR), *command],
        cwd=cwd,
        env=dict(env),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        bufsize=0,
        start_new_session=True,
    )


def lines_of(process: subprocess.Popen[bytes]) -> Iterator[str]:
    """Yield the lines of a process as they come; of a progress bar (carriage returns) the last state of each line."""
    descriptor = process.stdout.fileno()
    os.set_blocking(descriptor, False)
    rest = b""
    with selectors.DefaultSelector() as selector:
        selector.register(descriptor, selectors.EVENT_READ)
        while True:
            if selector.select(POLL_S):
                data = os.read(descriptor, 65536)
                if not data:
                    break
                *lines, rest = (rest + data).split(b"\n")
                yield from map(readable, lines)
                rest = rest[-65536:]
            elif process.poll() is not None:
                break
    if rest:
        yield readable(rest)


def readable(line: bytes) -> str:
    """Decode a line of output; undecodable bytes become U+FFFD."""
    return line.rstrip(b"\r").rsplit(b"\r", 1)[-1][:MAX_LINE].decode(errors="replace")


def close_input(process: subprocess.Popen[bytes]) -> None:
    """Ask the supervisor to end its command."""
    process.stdin.close()


def end(process: subprocess.Popen[bytes]) -> None:
    """End a process and all that it started; does nothing when it has ended."""
    close_input(process)
    try:
        process.wait(END_S)
    except subprocess.TimeoutExpired:
        with contextlib.suppress(ProcessLookupError):
            os.killpg(process.pid, signal.SIGKILL)
        process.wait()
