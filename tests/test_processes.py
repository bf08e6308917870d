"""A command under the supervisor: its output comes at once, and whatever happens to whom, nothing of it stays."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING

import psutil
import pytest

from qlass import processes
from tests.tasks.toy_shards import alive, wait_for

if TYPE_CHECKING:
    from collections.abc import Callable

REPOSITORY = Path(__file__).resolve().parents[1]
# Prints its own process id and that of a child in another session; then both are silent.
SILENT = """
import os, subprocess, sys, time
child = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(600)"], start_new_session=True)
print(os.getpid(), child.pid, flush=True)
time.sleep(600)
"""
# Prints its own process id and that of its supervisor.
WITH_SUPERVISOR = "import os, time\nprint(os.getpid(), os.getppid())\ntime.sleep(600)"
# A program that runs the Python code in its first argument under the supervisor, and shows its lines.
OWNER = """
import signal, sys
from qlass import processes
signal.signal(signal.SIGINT, signal.default_int_handler)  # ignored where the tests run in the background of a shell
show = {"shown": lambda line: print(line, flush=True), "inherited": None}[sys.argv[2]]
sys.exit(processes.run([sys.executable, "-c", sys.argv[1]], on_line=show, grace_s=10))
"""


def python(code: str) -> list[str]:
    return [sys.executable, "-u", "-c", code]


def run(code: str, on_line: Callable[[str], object] = lambda _: None, grace_s: float = 10) -> int:
    return processes.run(python(code), on_line=on_line, grace_s=grace_s)


def all_dead(pids: list[int], seconds: float = 5) -> None:
    wait_for(lambda: not any(map(alive, pids)), seconds)


def numbers(line: str) -> list[int]:
    return [int(word) for word in line.split()]


def test_lines_arrive_while_the_command_runs() -> None:
    seen: list[tuple[str, float]] = []
    code = "import time\nprint('one')\ntime.sleep(1)\nprint('two', end='')\nraise SystemExit(7)"
    assert run(code, lambda line: seen.append((line, time.monotonic()))) == 7
    assert [line for line, _ in seen] == ["one", "two"]
    assert seen[1][1] - seen[0][1] > 0.5


def test_output_that_is_no_plain_text() -> None:
    seen: list[str] = []
    code = (
        "import sys\nout = sys.stdout.buffer\nout.write(b'10%\\r50%\\r100%\\r\\n\\xff\\n' + b'x' * 200_000 + b'\\n')\n"
        "print('error', file=sys.stderr)"
    )
    assert run(code, seen.append) == 0
    assert seen == ["100%", "�", "x" * 4000, "error"]


def test_output_goes_where_ours_goes_unless_somebody_reads_it(capfd: pytest.CaptureFixture[str]) -> None:
    assert processes.run(python("import sys\nprint('out')\nprint('error', file=sys.stderr)")) == 0
    assert tuple(capfd.readouterr()) == ("out\n", "error\n")


def test_environment_and_folder_are_those_given(tmp_path: Path) -> None:
    seen: list[str] = []
    code = "import os\nprint(os.getcwd(), os.environ['ONE'], 'HOME' in os.environ)"
    assert processes.run(python(code), cwd=tmp_path, env={"ONE": "1"}, on_line=seen.append) == 0
    assert seen == [f"{tmp_path} 1 False"]


def test_standard_input_is_empty() -> None:
    seen: list[str] = []
    assert run("import sys\nprint(repr(sys.stdin.read()))", seen.append) == 0
    assert seen == ["''"]


def test_a_command_that_dies_of_a_signal_has_its_exit_code() -> None:
    assert run("import os\nos.kill(os.getpid(), 9)") == 137


def test_a_command_that_is_not_there() -> None:
    seen: list[str] = []
    assert processes.run(["./not-there"], on_line=seen.append) == 127
    assert seen == ["cannot start ./not-there: No such file or directory"]


def test_a_finished_command_leaves_nothing_behind() -> None:
    seen: list[str] = []
    assert run(SILENT.replace("\ntime.sleep(600)\n", "\n"), seen.append) == 0
    all_dead(numbers(seen[0]), 1)


def test_orphans_that_end_do_not_stay_as_zombies() -> None:
    # The shell's child is an orphan at once, and ends while the command runs.
    code = "import subprocess, time\nsubprocess.run(['sh', '-c', 'sleep 0.2 & echo $!'])\ntime.sleep(600)"
    with processes.Running(python(code)) as running:
        (orphan,) = numbers(next(running.lines()))
        wait_for(lambda: not psutil.pid_exists(orphan), 5)


def test_each_process_gets_one_sigterm_and_its_time(tmp_path: Path) -> None:
    # Like dvc and its stage: the command dies of SIGTERM at once, its child needs a second to close.
    child = (
        "import os, signal, sys, time\nfrom pathlib import Path\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "try:\n    print(os.getpid(), flush=True)\n    time.sleep(600)\n"
        "finally:\n    time.sleep(1)\n    Path(sys.argv[1]).write_text('closed')\n"
    )
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {child!r}, {str(tmp_path / 'end')!r}])"

    def interrupt(line: str) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run(code, interrupt)
    assert (tmp_path / "end").read_text() == "closed"


def test_a_process_that_says_much_while_it_closes_is_not_stopped_by_that(tmp_path: Path) -> None:
    code = (
        "import sys, time\nfrom pathlib import Path\nimport signal\n"
        "signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))\n"
        "try:\n    print('ready')\n    time.sleep(600)\n"
        f"finally:\n    print('x\\n' * 200_000)\n    Path({str(tmp_path / 'end')!r}).write_text('closed')\n"
    )
    with processes.Running(python(code), grace_s=10) as running:
        assert next(running.lines()) == "ready"
    assert (tmp_path / "end").read_text() == "closed"
    assert running.wait() == 143


def test_what_a_process_starts_to_close_is_left_alone(tmp_path: Path) -> None:
    code = f"trap 'sh -c \"sleep 1; echo closed > {tmp_path / 'end'}\"; exit' TERM; echo ready; sleep 600 & wait"
    with processes.Running(["sh", "-c", code]) as running:
        assert next(running.lines()) == "ready"
    assert (tmp_path / "end").read_text() == "closed\n"


def test_a_command_that_ignores_sigterm_is_killed() -> None:
    code = "import signal\nsignal.signal(signal.SIGTERM, signal.SIG_IGN)\n" + SILENT
    started = time.monotonic()
    with processes.Running(python(code), grace_s=0.5) as running:
        pids = numbers(next(running.lines()))
    assert 0.5 < time.monotonic() - started < 5
    all_dead(pids, 1)


def test_another_thread_can_end_it() -> None:
    with processes.Running(python(SILENT)) as running:
        lines = running.lines()
        pids = numbers(next(lines))
        thread = threading.Thread(target=running.end)
        thread.start()
        assert list(lines) == []
        assert running.wait() == 143
        thread.join()
    all_dead(pids, 1)


@pytest.mark.parametrize("output", ["shown", "inherited"])
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
def test_whatever_ends_us_ends_a_silent_command(number: signal.Signals, output: str) -> None:
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, SILENT, output],
        cwd=REPOSITORY, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True,
    )  # fmt: skip
    with owner:
        pids = numbers(owner.stdout.readline())
        assert all(map(alive, pids))
        owner.send_signal(number)
        assert owner.wait(10) == -number
    all_dead(pids)


@pytest.mark.filterwarnings("ignore::ResourceWarning")
def test_a_command_that_nobody_holds_any_more_ends() -> None:
    running = processes.Running(python(WITH_SUPERVISOR))
    pids = numbers(next(running.lines()))
    assert all(map(alive, pids))
    del running
    all_dead(pids)
    subprocess.run(["true"], check=True)  # when Python starts a process, it clears away those that were lost


def test_a_command_that_could_not_be_started_keeps_no_descriptor(tmp_path: Path) -> None:
    before = os.listdir("/proc/self/fd")
    with pytest.raises(FileNotFoundError, match="not-there"):
        processes.run(python("print()"), cwd=tmp_path / "not-there")
    assert os.listdir("/proc/self/fd") == before


def test_a_supervisor_that_is_killed_is_no_reason_to_live_on() -> None:
    with processes.Running(python(WITH_SUPERVISOR)) as running:
        lines = running.lines()
        pid, supervisor = numbers(next(lines))
        os.kill(supervisor, signal.SIGKILL)
        assert list(lines) == []
        assert running.wait() == 137
    all_dead([pid], 1)


def test_a_supervisor_below_a_supervisor() -> None:
    with processes.Running([sys.executable, "-c", OWNER, SILENT, "shown"], cwd=REPOSITORY) as running:
        pids = numbers(next(running.lines()))
        assert all(map(alive, pids))
    all_dead(pids, 1)


def test_a_worker_dies_with_its_parent() -> None:
    worker = (
        "import os, time\nfrom qlass import processes\nprocesses.die_with_parent(os.getppid())\n"
        "print(os.getpid(), flush=True)\ntime.sleep(600)"
    )
    code = f"import subprocess, sys\nsubprocess.run([sys.executable, '-c', {worker!r}])"
    with subprocess.Popen(python(code), cwd=REPOSITORY, stdout=subprocess.PIPE, text=True) as parent:
        pids = numbers(parent.stdout.readline())
        assert all(map(alive, pids))
        parent.kill()
    all_dead(pids)


def test_a_worker_whose_parent_is_gone_already_ends_at_once() -> None:
    code = f"from qlass import processes\nprocesses.die_with_parent({os.getpid() + 1})\nprint('lives')"
    done = subprocess.run(python(code), cwd=REPOSITORY, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (1, "")
