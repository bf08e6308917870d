"""Commands of a flow: their output comes at once, and they end together (`tests/test_processes.py` has the rest)."""

from __future__ import annotations

import os
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from flows.shell import Commands, CommandsEndedError

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[2]
# Prints its own process id and that of a child in another session; then both are silent.
SILENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""


def run(commands: Commands, code: str, on_line: Callable[[str], object] = lambda _: None) -> int:
    """Run Python code as a command."""
    return commands.run([sys.executable, "-u", "-c", code], cwd=Path("/"), env=os.environ, on_line=on_line)


def test_lines_arrive_while_the_command_runs():
    seen: list[tuple[str, float]] = []
    code = "import time\nprint('one')\ntime.sleep(1)\nprint('two', end='')\nraise SystemExit(7)"
    assert run(Commands(), code, lambda line: seen.append((line, time.monotonic()))) == 7
    assert [line for line, _ in seen] == ["one", "two"]
    assert seen[1][1] - seen[0][1] > 0.5


def test_end_all_ends_silent_commands_and_their_children_and_refuses_new_ones(watch):
    commands, pids, codes = Commands(), [], []
    thread = threading.Thread(
        target=lambda: codes.append(run(commands, SILENT, lambda line: pids.extend(line.split())))
    )
    thread.start()
    watch.until(lambda: pids, 20)
    started = time.monotonic()
    commands.end_all()
    assert time.monotonic() - started < 5
    thread.join(5)
    assert codes == [143]
    watch.all_dead([int(pid) for pid in pids], 1)
    with pytest.raises(CommandsEndedError):
        run(commands, "print(1)")


def test_an_exception_in_the_flow_ends_its_commands(watch):
    commands, pids = Commands(), []

    def interrupt(line: str) -> None:
        pids.extend(line.split())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), commands.ended_on_error():
        run(commands, SILENT, interrupt)
    watch.all_dead([int(pid) for pid in pids], 1)
