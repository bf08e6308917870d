"""Commands: their output comes at once, and nothing of them stays."""

from __future__ import annotations

import os
import signal
import subprocess
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


def test_output_that_is_no_plain_text():
    seen: list[str] = []
    code = (
        "import sys\nout = sys.stdout.buffer\nout.write(b'10%\\r50%\\r100%\\r\\n\\xff\\n' + b'x' * 200_000 + b'\\n')\n"
        "print('error', file=sys.stderr)"
    )
    assert run(Commands(), code, seen.append) == 0
    assert seen[:2] == ["100%", "�"]
    assert seen[2] == "x" * 4000
    assert seen[3] == "error"


def test_a_command_that_dies_of_a_signal_has_its_exit_code():
    assert run(Commands(), "import os\nos.kill(os.getpid(), 9)") == 137


def test_a_finished_command_leaves_nothing_behind(watch):
    code = SILENT.replace("\ntime.sleep(600)\n", "\n")
    seen: list[str] = []
    assert run(Commands(), code, seen.append) == 0
    watch.all_dead([int(pid) for pid in seen[0].split()], 1)


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


def test_a_command_that_ignores_sigterm_is_killed(watch, monkeypatch, tmp_path):
    supervisor = tmp_path / "supervise.py"
    source = (REPOSITORY / "flows" / "supervise.py").read_text()
    supervisor.write_text(source.replace("GRACE_S = 15", "GRACE_S = 1"))
    monkeypatch.setattr("flows.shell.SUPERVISOR", supervisor)
    commands, pids = Commands(), []
    code = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SILENT
    thread = threading.Thread(target=run, args=(commands, code, lambda line: pids.extend(line.split())))
    thread.start()
    watch.until(lambda: pids, 20)
    commands.end_all()
    thread.join(5)
    watch.all_dead([int(pid) for pid in pids], 1)


def test_an_exception_in_the_flow_ends_its_commands(watch):
    commands, pids = Commands(), []

    def interrupt(line: str) -> None:
        pids.extend(line.split())
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt), commands.ended_on_error():
        run(commands, SILENT, interrupt)
    watch.all_dead([int(pid) for pid in pids], 1)


def test_killing_the_flow_ends_a_silent_command(watch):
    code = (
        "import os, sys\nfrom pathlib import Path\nfrom flows.shell import Commands\n"
        "show = lambda line: print(line, flush=True)\n"
        "Commands().run([sys.executable, '-c', sys.argv[1]], cwd=Path('/'), env=os.environ, on_line=show)"
    )
    owner = subprocess.Popen([sys.executable, "-c", code, SILENT], cwd=REPOSITORY, stdout=subprocess.PIPE, text=True)
    with owner, owner.stdout:
        pids = [int(pid) for pid in owner.stdout.readline().split()]
        assert len(pids) == 2
        owner.send_signal(signal.SIGKILL)
    watch.all_dead(pids, 5)
