"""A stage without a model: `python toy_shards.py FOLDER MODE WORKERS FANOUT` spreads 18 tasks in five shards; and how tests run it."""

import hashlib
import os
import signal
import subprocess
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from pathlib import Path

from qlass.errors import DataError
from qlass.jsonl import write_records
from qlass.records import TaskSpec
from tasks.running import shards


def start(setup: tuple[str, Path]) -> shards.Worker:
    mode, folder = setup

    def work(tasks: list[int]) -> list[TaskSpec]:
        (folder / f"pid-{os.getpid()}").write_text(f"threads={os.environ['OMP_NUM_THREADS']}")
        sys.stderr.write("what a worker says\n")
        with (folder / "log").open("a") as log:
            log.write(f"{tasks[0]}\n")
        if mode == "hold":
            while tasks[0] and not (folder / "go").exists():
                time.sleep(0.05)
        if mode == "kill-once" and tasks[0] == 4 and not (folder / "killed").exists():
            (folder / "killed").touch()
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "kill-always" and tasks[0] == 4:
            os.kill(os.getpid(), signal.SIGKILL)
        if mode == "error" and tasks[0] == 4:
            raise DataError("task 4 is broken")
        if mode == "bug" and tasks[0] == 4:
            raise ZeroDivisionError("oops")
        return [TaskSpec(str(t), "e", "s", hashlib.sha256(str(t).encode()).hexdigest(), {}) for t in tasks]

    weakref.finalize(work, (folder / f"closed-{os.getpid()}").touch)  # as engines are closed
    return work


def command(folder: Path, mode: str, workers: int, fanout: str) -> list[str]:
    """Return the command that runs this stage in a folder."""
    return [sys.executable, "-W", "error", __file__, str(folder), mode, str(workers), fanout]


def drive(
    folder: Path,
    mode: str = "plain",
    workers: int = 2,
    fanout: str = "processes",
    variables: Mapping[str, str] = os.environ,
) -> subprocess.CompletedProcess[str]:
    """Run it to its end."""
    line = command(folder, mode, workers, fanout)
    return subprocess.run(line, capture_output=True, text=True, check=False, timeout=120, env=variables)


def pids(folder: Path, prefix: str = "pid-") -> list[int]:
    """Return the processes that have worked in a folder, or those that let go of what they held (`closed-`)."""
    return [int(path.name.removeprefix(prefix)) for path in folder.glob(f"{prefix}*")]


def wait_for(condition: Callable[[], bool], seconds: float = 20) -> None:
    """Wait until something is true."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def alive(pid: int) -> bool:
    """Say whether a process runs."""
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0]
    except (FileNotFoundError, ProcessLookupError):
        return False


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background jobs start with SIGINT ignored
    folder, mode, workers, fanout = Path(sys.argv[1]), sys.argv[2], int(sys.argv[3]), sys.argv[4]
    crew = shards.Crew(workers, fanout, gpus=int(mode == "gpu"))
    plan = shards.Plan(start, (mode, folder), TaskSpec, folder, 4, crew, "test")
    write_records(folder / "out.jsonl", shards.run_shards(plan, range(18)), TaskSpec)
    assert "torch" not in sys.modules
