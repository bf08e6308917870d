import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

DRIVER = """
import hashlib, os, signal, sys, time
from pathlib import Path
from qlass.errors import DataError
from qlass.jsonl import write_records
from qlass.records import TaskSpec
from tasks import shards

def start(setup):
    mode, folder = setup
    def work(tasks):
        (folder / f"pid-{os.getpid()}").touch()
        with (folder / "log").open("a") as log:
            log.write(f"{tasks[0]}\\n")
        if mode == "slow":
            time.sleep(60 if tasks[0] else 0)
        if mode == "kill-once" and tasks[0] == 4 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "kill-always" and tasks[0] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "error" and tasks[0] == 4:
            raise DataError("task 4 is broken")
        if mode == "bug" and tasks[0] == 4:
            raise ZeroDivisionError("oops")
        if mode == "threads":
            return [TaskSpec(str(t), "e", "s", os.environ["OMP_NUM_THREADS"], {}) for t in tasks]
        return [TaskSpec(str(t), "e", "s", hashlib.sha256(str(t).encode()).hexdigest(), {}) for t in tasks]
    return work

if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with SIGINT ignored
    folder, mode, workers = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3])
    plan = shards.Plan(start, (mode, folder), TaskSpec, folder, 4, workers, "test")
    write_records(folder / "out.jsonl", shards.run_shards(plan, range(10)), TaskSpec)
"""


def drive(folder: Path, mode: str = "plain", workers: int = 2) -> subprocess.CompletedProcess[str]:
    folder.mkdir(exist_ok=True)
    script = folder / "driver.py"
    script.write_text(DRIVER)
    command = [sys.executable, str(script), str(folder), mode, str(workers)]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=60)


def test_worker_count_changes_no_byte(tmp_path: Path) -> None:
    outputs = []
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        assert drive(folder, workers=workers).returncode == 0
        assert len(list(folder.glob("pid-*"))) == workers
        outputs.append((folder / "out.jsonl").read_bytes())
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b"\n") == 11


def test_a_killed_worker_costs_nothing_but_time(tmp_path: Path) -> None:
    assert drive(tmp_path / "plain").returncode == 0
    done = drive(tmp_path / "killed", "kill-once")
    assert done.returncode == 0, done.stderr
    assert (tmp_path / "killed" / "killed").exists()
    assert (tmp_path / "killed" / "out.jsonl").read_bytes() == (tmp_path / "plain" / "out.jsonl").read_bytes()


def test_a_shard_that_kills_twice_is_an_error_and_the_others_are_kept(tmp_path: Path) -> None:
    done = drive(tmp_path, "kill-always", workers=1)
    assert done.returncode == 1
    assert "WorkerDied: test: shard 1 ended its worker process twice (exit code -9" in done.stderr
    assert sorted(path.name for path in tmp_path.glob("shard-*")) == ["shard-00000.jsonl"]
    (tmp_path / "log").unlink()
    assert drive(tmp_path, workers=1).returncode == 0
    assert (tmp_path / "log").read_text().split() == ["4", "8"]  # shard 0 was not done again


@pytest.mark.parametrize(
    ("mode", "message"), [("error", "DataError: task 4 is broken"), ("bug", "RuntimeError: ZeroDivisionError: oops")]
)
def test_an_error_in_a_worker_is_the_error_of_the_stage(tmp_path: Path, mode: str, message: str) -> None:
    done = drive(tmp_path, mode, workers=1)
    assert done.returncode == 1
    assert message in done.stderr
    assert "in a worker process" in done.stderr
    assert (tmp_path / "shard-00000.jsonl").exists()


def test_a_worker_has_one_thread(tmp_path: Path) -> None:
    assert drive(tmp_path, "threads").returncode == 0
    assert b'"category": "1"' in (tmp_path / "out.jsonl").read_bytes()


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, number: int) -> None:
    (tmp_path / "driver.py").write_text(DRIVER)
    command = [sys.executable, str(tmp_path / "driver.py"), str(tmp_path), "slow", "3"]
    with subprocess.Popen(command, stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(list(tmp_path.glob("pid-*"))) == 3 and (tmp_path / "shard-00000.jsonl").exists())
        os.kill(process.pid, number)
        process.wait(20)
    pids = [int(path.name.removeprefix("pid-")) for path in tmp_path.glob("pid-*")]
    wait_for(lambda: not any(alive(pid) for pid in pids))
    assert (tmp_path / "shard-00000.jsonl").exists()


def wait_for(condition: object) -> None:
    deadline = time.monotonic() + 20
    while not condition():  # type: ignore[operator]
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False
