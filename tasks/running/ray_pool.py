"""Workers of a Ray cluster, for shards over many machines (`base.fanout: ray`).

The cluster is the one that RAY_ADDRESS names; without it Ray is started on this machine and ended with the run. A worker
is an actor that keeps one CPU (and a GPU where `base.device` is cuda). Its records travel to the parent, which alone
writes files; models do not travel: every machine must see the project's folder at the same path.
"""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, Future, wait
from contextlib import contextmanager
from pathlib import Path
from textwrap import shorten
from typing import Any

from qlass.errors import Busy, DataError, DependencyNotInstalled, SettingsError
from qlass.jsonl import write_records
from tasks.project import variables
from tasks.running.shards import ONE_THREAD, Died, Plan, Pool, Worker, portable

logger = logging.getLogger(__name__)

SHARED = "all machines of the Ray cluster need the project's folder at the same path, on a file system that they share"


class RayPool(Pool):
    """Actors; an answer is the future of a shard's records."""

    def run(self, shards: dict[int, Sequence[Any]]) -> Iterator[int]:
        """Yield the number of each finished shard, as `Pool.run`; connected to Ray as long as there is work.

        Raises:
            DependencyNotInstalled: Ray is missing.
            Busy: no cluster answers at RAY_ADDRESS.
            SettingsError: RAY_ADDRESS is no address, or the cluster has no GPU where one is asked for.
            DataError: a machine of the cluster does not see the project.
        """
        if shards:
            with _connected(self.plan) as self.ray:
                yield from super().run(shards)

    def _hire(self) -> Any:
        return self.ray.remote(num_cpus=1, num_gpus=self.plan.crew.gpus)(_Actor).remote()

    def _send(self, worker: Any, shard: tuple[int, list[Any]]) -> Future[Any]:
        answer: Future[Any] = worker.work.remote(self.plan, Path.cwd(), shard[1]).future()
        return answer

    def _answers(self) -> list[Future[Any]]:
        # Not `ray.wait`: the SystemExit of SIGTERM would come out of it with another exit code.
        return list(wait(self.busy, return_when=FIRST_COMPLETED).done)

    def _finish(self, answer: Future[Any]) -> None:
        worker, number = self.busy[answer]
        errors = self.ray.exceptions
        try:
            found = answer.result()
        except errors.RayError as error:
            never_began = isinstance(error, errors.ActorDiedError) and error.actor_init_failed
            if never_began or isinstance(error, errors.RayTaskError):  # what our code raises is returned
                why = str(error).splitlines()[-1]
                raise DataError(f"a Ray worker cannot load the project: {why}; {SHARED}") from None
            cause = self._bury(worker) or error
            raise Died(shorten(f"{type(cause).__name__}: {cause}", 500)) from None
        if isinstance(found, Exception):
            raise found
        write_records(self.plan.file(number), found, self.plan.kind)

    def _bury(self, worker: Any) -> BaseException | None:
        """Wait until Ray knows what became of a silent worker, else the next could get its dead machine; return that."""
        unknown = self.ray.exceptions.ActorUnavailableError
        while True:
            cause: BaseException | None = worker.ping.remote().future().exception()
            if not isinstance(cause, unknown):
                break
            time.sleep(1)
        self.ray.kill(worker)
        return cause

    def _dismiss(self, worker: Any) -> None:
        worker.end.remote().future().exception()  # waits; whoever is dead already has ended too
        self.ray.kill(worker)

    def _end(self) -> None:
        self.busy.clear()  # they end with the connection


class _Actor:
    """Lives in a process of its own on one of the machines: tasks in, records out."""

    def __init__(self) -> None:
        self.worker: Worker | None = None

    def ping(self) -> None:
        """Show that it lives."""

    def end(self) -> None:
        """Let go of what the worker holds, engines above all: `kill` leaves a process no time for it."""
        self.worker = None

    def work(self, plan: Plan, project: Path, tasks: Sequence[Any]) -> Sequence[Any] | Exception:
        """Return the records of a shard, or the error: Ray would wrap what is raised."""
        try:
            self.worker = self.worker or _start(plan, project)
            return self.worker(tasks)
        except Exception as error:  # noqa: BLE001  it is raised in the parent
            return portable(error)


def _start(plan: Plan, project: Path) -> Worker:
    """Make this process like one of `tasks.running.shards`, in the same folder and with one thread."""
    for folder in (plan.folder, *plan.reads):
        if not (project / folder).is_dir():
            raise DataError(f"{project / folder}: no such folder on {socket.gethostname()}; {SHARED}")
    os.chdir(project)
    os.environ.update(ONE_THREAD)
    variables.apply()
    return plan.start(plan.setup)


@contextmanager
def _connected(plan: Plan) -> Iterator[Any]:
    """Yield the module `ray`, connected to a cluster that can hold a worker."""
    variables.apply()
    address = os.environ.get("RAY_ADDRESS") or "local"
    if address == "local":
        # Else Ray writes one into the home folder, which `ray start` would then demand of every machine.
        os.environ.setdefault("RAY_AUTH_TOKEN", secrets.token_hex())
    else:
        os.environ.setdefault("RAY_NUM_REDIS_GET_RETRIES", "1")  # 40 s; Ray's default is a quarter of an hour
    ray = _import_ray()
    try:
        _connect(ray, address, plan.crew.workers)
        has = ray.cluster_resources()
        nodes, cpus, gpus = sum(node["Alive"] for node in ray.nodes()), int(has.get("CPU", 0)), int(has.get("GPU", 0))
        logger.info("ray=%s nodes=%d cpus=%d gpus=%d workers=%d", address, nodes, cpus, gpus, plan.crew.workers)
        if gpus < plan.crew.gpus:  # Ray would wait for one for ever
            raise SettingsError(f"base.device: found cuda; allowed: auto | cpu, because Ray ({address}) has no GPU")
        yield ray
    finally:
        ray.shutdown()


def _import_ray() -> Any:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise DependencyNotInstalled("base.fanout: ray needs Ray: pip install qlass[ray]") from error
    return ray


def _connect(ray: Any, address: str, workers: int) -> None:
    """Connect to the cluster, or start one on this machine; quietly, and without taking SIGTERM from `tasks.running.runner`."""
    local = {"num_cpus": workers, "include_dashboard": False} if address == "local" else {}
    on_sigterm = signal.getsignal(signal.SIGTERM)
    try:
        if ":" in address:
            host, _, port = address.rpartition(":")
            socket.create_connection((host, int(port)), timeout=10).close()  # says at once that nobody is there
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR, **local)
    except OSError as error:
        raise Busy(
            f"RAY_ADDRESS: found {address}, where no Ray cluster answers ({error}); start one, with this RAY_AUTH_MODE and "
            "token (docs/operations.md), or unset RAY_ADDRESS to use this machine alone"
        ) from None
    except (RuntimeError, ValueError, ray.exceptions.RayError) as error:
        raise SettingsError(f"RAY_ADDRESS: found {address!r}; allowed: host:port of a Ray cluster; {error}") from None
    finally:
        signal.signal(signal.SIGTERM, on_sigterm)
