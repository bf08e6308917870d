"""Spread tasks over workers so that interruption, death of a worker, worker count and kind of worker change no byte.

A shard is a fixed group of consecutive tasks; each finished one is a file of records. A restart skips finished shards,
and the result is their concatenation in order. Workers are processes of this machine, or actors of a Ray cluster
(`tasks.running.ray_pool`).
"""

from __future__ import annotations

import logging
import multiprocessing
import os
import signal
import traceback
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path
from typing import Any, ClassVar, Literal, Self, cast

from qlass import processes
from qlass.errors import EnvironmentFault, QlassError
from qlass.jsonl import iter_records, write_records
from tasks.project.settings import Base
from tasks.running.progress import Progress

logger = logging.getLogger(__name__)

Worker = Callable[[Sequence[Any]], Sequence[Any]]
"""Turns the tasks of one shard into their records."""

# More would fight over the cores, and the number of threads can change the last bit of a sum.
ONE_THREAD = {"OMP_NUM_THREADS": "1", "MKL_NUM_THREADS": "1"}
"""Environment variables of every worker."""


class WorkerDied(QlassError):
    """A worker process was killed twice on the same shard, most likely for memory."""

    exit_code: ClassVar[int] = 75


class Died(Exception):
    """A worker ended without an answer; the text says how."""


@dataclass(frozen=True, slots=True)
class Crew:
    """Who does the work; no result depends on it.

    Attributes:
        workers: how many.
        fanout: what they are: processes of this machine, or actors of a Ray cluster.
        gpus: that Ray keeps for each of them; processes share what the machine has.
    """

    workers: int
    fanout: Literal["processes", "ray"] = "processes"
    gpus: int = 0

    @classmethod
    def of(cls, base: Base) -> Self:
        """Return the crew that plays with a model: one GPU each with `device: cuda`; with `auto` they share, as processes do."""
        return cls(base.workers, base.fanout, gpus=int(base.device == "cuda"))


@dataclass(frozen=True, slots=True)
class Plan:
    """What to run.

    Attributes:
        start: a module-level function that builds a Worker from `setup`; it runs once in every process.
        setup: picklable; everything that `start` needs.
        kind: record that the worker makes.
        folder: where the files of finished shards lie.
        shard_size: tasks per shard.
        crew: who does it.
        label: name in progress lines.
        reads: folders that `start` or its worker reads.
    """

    start: Callable[[Any], Worker]
    setup: Any
    kind: type[Any]
    folder: Path
    shard_size: int
    crew: Crew
    label: str
    reads: tuple[Path, ...] = ()

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
    plan.folder.mkdir(parents=True, exist_ok=True)  # workers of other machines look whether they see it
    shards = {n: items[i : i + plan.shard_size] for n, i in enumerate(range(0, len(items), plan.shard_size))}
    left = {number: tasks for number, tasks in shards.items() if not plan.file(number).exists()}
    done = len(items) - sum(map(len, left.values()))
    progress = Progress(plan.label, len(items), done=done)
    for number in _pool(plan).run(left):
        done += len(shards[number])
        progress.update(done)
        if on_progress is not None:
            on_progress(done)
    return (record for number in shards for record in iter_records(plan.file(number), plan.kind))


def report_failed(plan: Plan, failed: Mapping[str, str], count: int) -> None:
    """Say which tasks the environment could not play; when it could play none, there is no result to report.

    Then the finished shards are removed, so that the next attempt plays: the environment's data are no part of the
    work folder's name.

    Args:
        plan: what ran.
        failed: reason by task.
        count: tasks in all, at least 1.

    Raises:
        EnvironmentFault: all tasks failed.
    """
    for task_id, reason in failed.items():
        logger.warning("%s: task=%s failed=%r", plan.label, task_id, reason)
    if len(failed) < count:
        if failed:
            logger.warning("%s: tasks=%d failed=%d; each counts as not solved", plan.label, count, len(failed))
        return
    for file in plan.folder.glob("shard-*.jsonl"):
        file.unlink()
    task_id, reason = next(iter(failed.items()))
    raise EnvironmentFault(
        f"{plan.label}: the environment could play none of {count} tasks, so there is no result; the first, {task_id}: "
        f"{reason}. Mend what it names and run the stage again"
    )


def _pool(plan: Plan) -> Pool:
    """Return the workers that the plan asks for; Ray is needed only where it is asked for."""
    if plan.crew.fanout == "processes":
        return _Processes(plan)
    from tasks.running.ray_pool import RayPool

    return RayPool(plan)


class Pool(ABC):
    """The workers of one run, each busy with one shard.

    What a worker is, and what its answer arrives by (the key of `busy`), is the business of a subclass.
    """

    def __init__(self, plan: Plan) -> None:
        """Keep what to run."""
        self.plan = plan
        self.busy: dict[Any, tuple[Any, int]] = {}

    def run(self, shards: dict[int, Sequence[Any]]) -> Iterator[int]:
        """Yield the number of each shard when its file is there; end all workers whatever happens."""
        waiting = list(shards)[::-1]
        died: set[int] = set()
        try:
            while waiting and len(self.busy) < self.plan.crew.workers:
                self._give(self._hire(), waiting.pop(), shards)
            while self.busy:
                for answer in self._answers():
                    worker, number = self.busy[answer]
                    try:
                        self._finish(answer)
                    except Died as death:
                        del self.busy[answer]
                        self._forgive(number, death, died)
                        self._give(self._hire(), number, shards)
                        continue
                    yield number
                    del self.busy[answer]
                    if waiting:
                        self._give(worker, waiting.pop(), shards)
                    else:
                        self._dismiss(worker)
        finally:
            self._end()

    def _give(self, worker: Any, number: int, shards: dict[int, Sequence[Any]]) -> None:
        """Give a shard to a worker; if that is dead already, `_finish` finds out."""
        self.busy[self._send(worker, (number, list(shards[number])))] = worker, number

    def _forgive(self, number: int, death: Died, died: set[int]) -> None:
        """Let a shard end its worker once, not twice."""
        if number in died:
            raise WorkerDied(
                f"{self.plan.label}: shard {number} ended its worker process twice ({death}); free memory or lower "
                "base.workers and run again: finished shards are kept"
            ) from None
        died.add(number)
        logger.warning("worker=dead shard=%d retry=1 reason=%r", number, str(death))

    @abstractmethod
    def _hire(self) -> Any:
        """Start a worker."""

    @abstractmethod
    def _send(self, worker: Any, shard: tuple[int, list[Any]]) -> Any:
        """Send number and tasks of a shard; return what the answer arrives by."""

    @abstractmethod
    def _answers(self) -> list[Any]:
        """Wait for at least one answer."""

    @abstractmethod
    def _finish(self, answer: Any) -> None:
        """Return when the shard's file is there; raise the worker's error, or Died."""

    @abstractmethod
    def _dismiss(self, worker: Any) -> None:
        """End a worker that has no more work."""

    @abstractmethod
    def _end(self) -> None:
        """Kill what still works; its shards are lost, a file appears only when complete."""


class _Processes(Pool):
    """Processes of this machine, which write the files themselves."""

    def _hire(self) -> tuple[BaseProcess, Connection]:
        os.environ.update(ONE_THREAD)
        context = multiprocessing.get_context("spawn")
        ours, theirs = context.Pipe()
        process = context.Process(target=_work, args=(theirs, self.plan, os.getpid()), daemon=True)
        process.start()
        theirs.close()
        return process, ours

    def _send(self, worker: tuple[BaseProcess, Connection], shard: tuple[int, list[Any]]) -> Connection:
        process, pipe = worker
        try:
            pipe.send(shard)
        except (BrokenPipeError, ConnectionResetError):
            logger.debug("pipe of process %s is closed", process.pid)
        return pipe

    def _answers(self) -> list[Connection]:
        return cast("list[Connection]", wait(list(self.busy)))

    def _finish(self, answer: Connection) -> None:
        try:
            error = answer.recv()
        except (EOFError, ConnectionResetError):
            process = self.busy[answer][0][0]
            answer.close()
            process.join()
            raise Died(f"exit code {process.exitcode}; -9 is mostly lack of memory") from None
        if error is not None:
            raise error

    def _dismiss(self, worker: tuple[BaseProcess, Connection]) -> None:
        process, pipe = worker
        pipe.close()
        process.join()

    def _end(self) -> None:
        for (process, pipe), _ in self.busy.values():
            process.kill()
            process.join()
            pipe.close()
        self.busy.clear()


def _work(pipe: Connection, plan: Plan, parent: int) -> None:
    """Main of a worker process: shards in, files out; None or the error goes back."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C reaches the whole group; the parent decides
    processes.die_with_parent(parent)
    try:
        run = plan.start(plan.setup)
        while True:
            number, tasks = pipe.recv()
            write_records(plan.file(number), run(tasks), plan.kind)
            pipe.send(None)
    except EOFError:  # the parent has no more work
        return
    except Exception as error:  # noqa: BLE001  it is raised again in the parent
        pipe.send(portable(error))


def portable(error: Exception) -> Exception:
    """Return an error that survives the way to the parent, with the traceback as a note."""
    text = "".join(traceback.format_exception(error))
    found = error if isinstance(error, QlassError) else RuntimeError(f"{type(error).__name__}: {error}")
    found.add_note(f"in a worker process:\n{text}")
    found.__cause__ = found.__context__ = None
    return found
