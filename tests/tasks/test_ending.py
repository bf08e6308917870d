"""SIGTERM and SIGINT end a program whatever it does: real processes, stuck where Python runs no handler."""

import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from tasks.running import ending
from tests.ports import closed_port
from tests.tasks.conftest import clean_environment

START = """
import contextlib, itertools, signal, subprocess, sys, threading, time
from pathlib import Path
from qlass import processes
from tasks.running import runner
folder = Path({folder!r})
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
runner.prepare({closing_s})
command = [sys.executable, "-c", "import time; time.sleep(300)"]
child = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
{before}
print(child.pid, flush=True)
{stuck}
"""
HOLDS_THE_LOCK = "sum(itertools.repeat(1))"
MARGIN_S = 30.0  # on a busy machine


def start(folder: Path, stuck: str, *, before: str = "", closing_s: float = 15.0) -> tuple[subprocess.Popen[str], int]:
    """Start a program that has said that it is ready; return it, and a process that it started."""
    code = START.format(folder=str(folder), closing_s=closing_s, before=before, stuck=stuck)
    env = clean_environment()
    program = subprocess.Popen(
        [sys.executable, "-c", code], env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert program.stdout is not None
    child = int(program.stdout.readline())
    time.sleep(1.0)  # until it is stuck: it says that it is ready just before
    return program, child


def finish(program: subprocess.Popen[str], seconds: float) -> tuple[int, str, str]:
    """Wait for the end of a program; return its exit code, standard output and error."""
    try:
        out, err = program.communicate(timeout=seconds)
    finally:
        program.kill()
    return program.returncode, out, err


def has_ended(pid: int) -> bool:
    """Say whether a process has ended, be it that nobody has asked for its exit code yet."""
    try:
        return psutil.Process(pid).status() == psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return True


def wait(condition, seconds: float = MARGIN_S) -> None:  # type: ignore[no-untyped-def]
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.05)


@pytest.mark.parametrize("number", [signal.SIGTERM, pytest.param(signal.SIGINT, marks=pytest.mark.slow)])
def test_a_program_whose_python_takes_no_notice_is_killed_with_its_children(
    tmp_path: Path, number: signal.Signals
) -> None:
    program, child = start(tmp_path, HOLDS_THE_LOCK)
    program.send_signal(number)
    code, _, log = finish(program, ending.REACTION_S + MARGIN_S)
    assert code == -signal.SIGKILL
    assert re.search(rf"error=killed pid={program.pid} signal={number:d} after_s=\d+ taken=0; it was here:", log)
    assert re.search(r'File "<string>", line \d+ in <module>', log)
    wait(lambda: has_ended(child))


@pytest.mark.slow
def test_ranks_that_never_meet_do_not_make_a_program_deaf(tmp_path: Path) -> None:
    """As in pytorch/pytorch#81704: the wait is in C++."""
    meeting = f"tcp://127.0.0.1:{closed_port()}"
    stuck = f"import torch; torch.distributed.init_process_group('gloo', {meeting!r}, rank=0, world_size=2)"
    program, _ = start(tmp_path, stuck, before="import torch")
    program.send_signal(signal.SIGTERM)
    assert finish(program, ending.REACTION_S + MARGIN_S)[0] == -signal.SIGKILL


def test_what_closes_in_time_is_let_close_and_two_signals_at_once_are_one(tmp_path: Path) -> None:
    stuck = "try:\n    time.sleep(300)\nfinally:\n    time.sleep(1)\n    print('closed')"
    program, child = start(tmp_path, stuck)
    for _ in range(2):  # as `timeout` does: to the process, and to its group
        program.send_signal(signal.SIGTERM)
        time.sleep(0.3)
    assert finish(program, MARGIN_S)[:2] == (143, "closed\n")
    psutil.Process(child).kill()


@pytest.mark.parametrize(
    "stuck",
    [
        "while True:\n    with contextlib.suppress(BaseException):\n        time.sleep(300)",
        "threading.Thread(target=time.sleep, args=(300,)).start()\ntime.sleep(300)",
    ],
    ids=["the exception is swallowed", "a thread goes on"],
)
def test_a_program_that_does_not_end_has_no_more_time_than_closing_takes(tmp_path: Path, stuck: str) -> None:
    program, _ = start(tmp_path, stuck, closing_s=2.0)
    program.send_signal(signal.SIGTERM)
    code, _, log = finish(program, MARGIN_S)
    assert code == -signal.SIGKILL
    assert "after_s=2 taken=1" in log


def test_a_second_signal_ends_a_program_at_once(tmp_path: Path) -> None:
    stuck = "try:\n    time.sleep(300)\nfinally:\n    print('closing', flush=True)\n    time.sleep(300)"
    program, _ = start(tmp_path, stuck, closing_s=300.0)
    program.send_signal(signal.SIGTERM)
    assert program.stdout is not None
    assert program.stdout.readline() == "closing\n"
    time.sleep(1.5)  # a moment later it would be the same request
    program.send_signal(signal.SIGTERM)
    assert finish(program, MARGIN_S)[0] == -signal.SIGKILL


@pytest.mark.slow
def test_a_supervised_command_of_a_killed_program_ends_in_its_own_way(tmp_path: Path) -> None:
    command = (
        "import pathlib, signal, sys, time\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(pathlib.Path('closed').touch()))\n"
        "pathlib.Path('ready').touch()\n"
        "time.sleep(300)"
    )
    before = (
        f"running = processes.Running([sys.executable, '-c', {command!r}], cwd=folder)\n"
        "while not (folder / 'ready').exists(): time.sleep(0.05)"
    )
    program, _ = start(tmp_path, HOLDS_THE_LOCK, before=before)
    program.send_signal(signal.SIGTERM)
    assert finish(program, ending.REACTION_S + MARGIN_S)[0] == -signal.SIGKILL
    wait((tmp_path / "closed").exists)


def test_the_guard_ends_with_its_program_and_not_before(tmp_path: Path) -> None:
    program, child = start(tmp_path, "time.sleep(300)")
    (guard,) = (process for process in psutil.Process(program.pid).children() if process.pid != child)
    for number in (signal.SIGTERM, signal.SIGINT):
        guard.send_signal(number)
    time.sleep(0.5)
    assert guard.is_running()
    psutil.Process(child).kill()
    program.kill()
    wait(lambda: has_ended(guard.pid))
    program.communicate()
