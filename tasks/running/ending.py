"""SIGTERM and SIGINT end a program within seconds, whatever it is doing.

Python runs its signal handlers between two steps of the main thread. A program that waits inside C code (ranks that
never meet, a library that holds the interpreter's lock) takes none, a thread that never ends keeps the interpreter from
ending, and code that catches everything swallows the exception of a handler. So a guard watches, a process of its own:
this file as a program. The C part of Python's handlers tells it of each signal through a pipe, without the interpreter's
help; the guard waits a while, and then kills us with what we started. When we end, the pipe closes and the guard ends.

Commands under a supervisor (`qlass.processes`) are not killed: their supervisor sees that we are gone and ends them as
it ends all, with SIGTERM first.
"""

from __future__ import annotations

import contextlib
import faulthandler
import os
import select
import signal
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import psutil

REACTION_S = 5.0
"""Seconds from the first signal after which a program is killed whose Python has not taken it."""

_ONE_EVENT_S = 1.0  # `timeout` and batch systems signal a process and its group: that is one request, not two
_TRACEBACK_S = 0.3  # how long faulthandler may write
_ENDING = (signal.SIGTERM, signal.SIGINT)
_TAKEN = b"\0"  # beside numbers of signals: Python has taken the first one
_SUPERVISOR = Path(__file__).resolve().parents[2] / "qlass" / "processes.py"

_pipe: int | None = None
_leaving = False


def end_on_signals(closing_s: float) -> None:
    """Turn SIGTERM into SystemExit(143) and SIGINT into KeyboardInterrupt, and start the guard of this process.

    As exceptions they let `finally` blocks end workers and close the MLflow run. For that there are `closing_s` seconds;
    a second signal (more than one second after the first) or `REACTION_S` seconds in which Python takes no notice end
    the program by SIGKILL, so with exit code 137. Where Python takes no notice, a traceback of all threads says why.

    Args:
        closing_s: seconds from the first signal to SIGKILL, of the first call in a process.
    """
    global _pipe  # noqa: PLW0603  signals are the process's, too
    if _pipe is None:
        _pipe = _start_guard(closing_s)
        faulthandler.register(signal.SIGUSR2, file=2)
    signal.set_wakeup_fd(_pipe, warn_on_full_buffer=False)
    signal.signal(signal.SIGTERM, _leave)
    if signal.getsignal(signal.SIGINT) is not signal.SIG_IGN:  # ignored by a job in the background
        signal.signal(signal.SIGINT, _leave)


def leaving() -> bool:
    """Say whether this process is on its way out, because of a signal."""
    return _leaving


def _leave(number: int, _frame: Any) -> None:
    """Leave by an exception, once: another one would interrupt what the first one made us do."""
    global _leaving  # noqa: PLW0603
    if _leaving:
        return
    _leaving = True
    if _pipe is not None:
        with contextlib.suppress(OSError):  # somebody killed the guard
            os.write(_pipe, _TAKEN)
    if number == signal.SIGINT:
        raise KeyboardInterrupt
    raise SystemExit(128 + number)


def _start_guard(closing_s: float) -> int:
    """Start the guard; return the end of the pipe into which signals are written."""
    theirs, ours = os.pipe()
    os.set_blocking(ours, False)
    os.posix_spawn(
        sys.executable,
        [sys.executable, "-I", __file__, str(closing_s)],
        os.environ,
        file_actions=[(os.POSIX_SPAWN_DUP2, theirs, 0), (os.POSIX_SPAWN_OPEN, 1, os.devnull, os.O_WRONLY, 0)],
        setsigmask=_ENDING,  # blocked: the guard outlasts what ends us
    )
    os.close(theirs)
    return ours


def _guard(closing_s: float) -> None:
    """Wait for signals of the parent on standard input, then for its end, and kill it when it takes too long."""
    parent = os.getppid()
    first, number, taken = 0.0, 0, False
    deadline: float | None = None
    while deadline is None or time.monotonic() < deadline:
        left = None if deadline is None else max(0.0, deadline - time.monotonic())
        if not select.select([0], [], [], left)[0]:
            break
        told = os.read(0, 64)
        if not told:
            return
        for byte in told:
            if byte in _ENDING and deadline is None:
                first, number = time.monotonic(), byte
                deadline = first + min(REACTION_S, closing_s)
            elif byte in _ENDING and time.monotonic() - first > _ONE_EVENT_S:
                deadline = time.monotonic()
            elif byte in _TAKEN and not taken and deadline is not None:
                taken, deadline = True, first + closing_s
    if os.getppid() == parent:
        _kill(parent, f"signal={number} after_s={time.monotonic() - first:.0f} taken={taken:d}")


def _kill(parent: int, why: str) -> None:
    """Kill the parent and what it started."""
    import psutil

    sys.stderr.write(f"error=killed pid={parent} {why}; it was here:\n")
    sys.stderr.flush()
    with contextlib.suppress(psutil.Error):
        process = psutil.Process(parent)
        process.send_signal(signal.SIGUSR2)
        time.sleep(_TRACEBACK_S)
        started = list(_started(process))
        process.kill()
        for child in started:
            with contextlib.suppress(psutil.Error):
                child.kill()


def _started(process: psutil.Process) -> Iterator[psutil.Process]:
    """Yield the descendants of a process, without ourselves and without what runs under a supervisor."""
    import psutil

    for child in process.children():
        with contextlib.suppress(psutil.Error):
            if child.pid != os.getpid() and str(_SUPERVISOR) not in child.cmdline():
                yield child
                yield from _started(child)


if __name__ == "__main__":
    _guard(float(sys.argv[1]))
