import os
import signal
import subprocess
from pathlib import Path

import pytest

from tests.tasks.toy_shards import alive, command, drive, pids, wait_for


def test_worker_count_changes_no_byte(tmp_path: Path) -> None:
    outputs = []
    for workers in (1, 3):
        folder = tmp_path / str(workers)
        assert drive(folder, workers=workers).returncode == 0
        assert len(pids(folder)) == workers
        assert sorted(pids(folder, "closed-")) == sorted(pids(folder))
        outputs.append((folder / "out.jsonl").read_bytes())
    assert outputs[0] == outputs[1]
    assert outputs[0].count(b"\n") == 19


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
    assert (tmp_path / "log").read_text().split() == ["4", "8", "12", "16"]  # shard 0 was not done again


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
    assert drive(tmp_path, variables={**os.environ, "OMP_NUM_THREADS": "3"}).returncode == 0
    assert {path.read_text() for path in tmp_path.glob("pid-*")} == {"threads=1"}


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL, signal.SIGINT])
def test_workers_end_with_their_parent(tmp_path: Path, number: int) -> None:
    with subprocess.Popen(command(tmp_path, "hold", 3, "processes"), stderr=subprocess.DEVNULL) as process:
        wait_for(lambda: len(pids(tmp_path)) == 3 and (tmp_path / "shard-00000.jsonl").exists())
        os.kill(process.pid, number)
        process.wait(20)
    wait_for(lambda: not any(map(alive, pids(tmp_path))))
    assert (tmp_path / "shard-00000.jsonl").exists()
