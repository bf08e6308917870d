"""Spread tasks over worker processes so that interruption, death of a worker and worker count change no byte.

A shard is a fixed group of consecutive tasks; each finished one is a file of records. A restart skips finished shards,
and the result is their concatenation in order.
"""

from __future__ import annotations

import ctypes
import logging
import multiprocessing
import os
import signal
import sys
import traceback
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar, TypeVar, cast

from qlass.errors import QlassError
from qlass.jsonl import iter_records, write_records
from tasks.progress import Progress

logger = logging.getLogger(__name__)

R = TypeVar("R")
Worker = Callable[[Sequence[Any]], Sequence[Any]]
"""Turns the tasks of one shard into their records."""


class WorkerDied(QlassError):
    """A worker process was killed twice on the same shard, most likely for memory."""

    exit_code: ClassVar[int] = 75


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        start: a module-level function that builds a Worker from `setup`; it runs once in every process.
        setup: picklable; everything that `start` needs.
        kind: record that the worker makes.
        folder: where the files of finished shards lie.
        shard_size: tasks per shard.
        workers: processes.
        label: name in progress lines.
    """

    start: Callable[[Any], Worker]
    setup: Any
    kind: type[Any]
    folder: Path
    shard_size: int
    workers: int
    label: str

    def file(self, shard: int) -> Path:
        """Return the file of one finished shard."""
        return self.folder / f"shard-{shard:05d}.jsonl"


def run_shards(plan: Plan, items: Sequence[Any], on_progress: Callable[[int], None] | None = None) -> Iterator[Any]:
    """Run all shards that are not finished yet; return an iterator over all records in the order of `items`.

    Args:
        plan: what to run.
        items: picklable tasks.
        on_progress: called with the number of finished tasks after every shard.

    Raises:
        WorkerDied: a shard killed its worker twice.
        QlassError: whatever a worker raised; the finished shards stay.
    """
    shards = {n: items[i : i + plan.shard_size] for n, i in enumerate(range(0, len(items), plan.shard_size))}
    left = {number: tasks for number, tasks in shards.items() if not plan.file(number).exists()}
    done = len(items) - sum(map(len, left.values()))
    progress = Progress(plan.label, len(items), done=done)
    for number in _Pool(plan).run(left):
        done += len(shards[number])
        progress.update(done)
        if on_progress is not None:
            on_progress(done)
    return (record for number in shards for record in iter_records(plan.file(number), plan.kind))


class _Pool:
    """The processes of one run, each busy with one shard."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.busy: dict[Connection, tuple[BaseProcess, int]] = {}

    def run(self, shards: dict[int, Sequence[Any]]) -> Iterator[int]:
        """Yield the number of each shard when it is finished; end all processes whatever happens."""
        waiting = list(shards)[::-1]
        died: set[int] = set()
        try:
            while waiting and len(self.busy) < self.plan.workers:
                self._spawn(waiting.pop(), shards)
            while self.busy:
                for pipe in cast("list[Connection]", wait(list(self.busy))):
                    number = self._receive(pipe, shards, died)
                    if number is None:
                        continue
                    yield number
                    process = self.busy.pop(pipe)[0]
                    if waiting:
                        self._send(pipe, process, waiting.pop(), shards)
                    else:
                        pipe.close()
                        process.join()
        finally:
            self._end()

    def _spawn(self, number: int, shards: dict[int, Sequence[Any]]) -> None:
        """Start a process on a shard."""
        # One thread each: more would fight over the cores, and the number of threads can change the last bit of a sum.
        os.environ["OMP_NUM_THREADS"] = os.environ["MKL_NUM_THREADS"] = "1"
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.plan, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        self._send(ours, process, number, shards)

    def _send(self, pipe: Connection, process: BaseProcess, number: int, shards: dict[int, Sequence[Any]]) -> None:
        """Give a shard to a process; if that is dead already, `_receive` finds out."""
        self.busy[pipe] = (process, number)
        try:
            pipe.send((number, list(shards[number])))
        except (BrokenPipeError, ConnectionResetError):
            logger.debug("pipe of process %s is closed", process.pid)

    def _receive(self, pipe: Connection, shards: dict[int, Sequence[Any]], died: set[int]) -> int | None:
        """Return the finished shard of a pipe, or None when its process died and another has taken over."""
        try:
            error = pipe.recv()
        except (EOFError, ConnectionResetError):
            process, number = self.busy.pop(pipe)
            pipe.close()
            process.join()
            if number in died:
                raise WorkerDied(
                    f"{self.plan.label}: shard {number} ended its worker process twice (exit code {process.exitcode}; "
                    "-9 is mostly lack of memory); free memory or lower base.workers and run again: finished shards "
                    "are kept"
                ) from None
            died.add(number)
            logger.warning("worker=dead pid=%s exit_code=%s shard=%d retry=1", process.pid, process.exitcode, number)
            self._spawn(number, shards)
            return None
        if error is not None:
            raise error
        return self.busy[pipe][1]

    def _end(self) -> None:
        """Kill what still runs; a shard in work is lost, its file appears only when complete."""
        for pipe, (process, _) in self.busy.items():
            process.kill()
            process.join()
            pipe.close()
        self.busy.clear()


def _work(pipe: Connection, plan: Plan, parent: int) -> None:
    """Main of a worker process: shards in, files out; None or the error goes back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    _die_with(parent)
    try:
        run = plan.start(plan.setup)
        while True:
            number, tasks = pipe.recv()
            write_records(plan.file(number), run(tasks), plan.kind)
            pipe.send(None)
    except EOFError:  # the parent has no more work
        return
    except Exception as error:  # noqa: BLE001  it is raised again in the parent
        pipe.send(_portable(error))


def _portable(error: Exception) -> Exception:
    """Return an error that survives the pipe, with the traceback as a note."""
    text = "".join(traceback.format_exception(error))
    portable = error if isinstance(error, QlassError) else RuntimeError(f"{type(error).__name__}: {error}")
    portable.add_note(f"in a worker process:\n{text}")
    portable.__cause__ = portable.__context__ = None
    return portable


def _die_with(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, also by SIGKILL; elsewhere it ends after its shard."""
    if sys.platform == "linux":
        ctypes.CDLL(None, use_errno=True).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG
        if os.getppid() != parent:
            os._exit(1)
