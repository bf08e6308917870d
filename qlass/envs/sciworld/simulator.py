"""`Simulator`: ScienceWorld's simulator in a Java virtual machine of its own, which is gone when we are.

One machine for one simulator: random numbers, unique numbers and simplifications are singletons of a machine, so a
second simulator in it would change what the first one plays, without an error (four in threads gave wrong worlds in 6
to 8 of 24 episodes). It is spoken to by the server's own methods and not by `ScienceWorldEnv.step`, which asks after
each action for the list of valid actions: that takes five sixths of its time, and draws random numbers that later
observations depend on.

Equal actions give equal observations, in any machine: identity hashes are constant (`java.FLAGS`), and each start sets
the seed. Tasks about heat are no exception, as they are without the flag (allenai/ScienceWorld#33, fixed after 1.2.3):
of 300 replays of golden paths, 50 of each type (use-thermometer, measure-melting-point-known-substance, boil, melt,
freeze, change-the-state-of-matter-of), in two machines and in mixed order, none differed in an observation or a score.

A machine has `HEAP_MB` of heap and took 223 MB in all (resident) at most in those replays. It holds the other end of a
pipe whose end in this process the kernel closes however we die. A process that we fork without exec holds that end
too, and hides our death as long as it lives; what it does at its end leaves our machine alone.
"""

from __future__ import annotations

import logging
import os
import select
import subprocess
import time
import weakref
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module
from pathlib import Path
from typing import IO, Any, NamedTuple, cast

from qlass.envs.sciworld.java import FLAGS, INSTALL, Java, check_java, find_java
from qlass.errors import DependencyNotInstalled, EnvironmentFault

HEAP_MB = 128
"""Largest heap (MB). Without a limit a machine grows to 1.8 GB."""

ANSWER_LIMIT_S = 300.0
"""How long the machine may take for one answer (seconds); the longest, golden paths of genetics, takes 12."""

_SHOWN = 400
"""Characters of what a machine wrote that an error shows, the last ones."""


class SimulatorDied(EnvironmentFault):
    """The Java virtual machine of a simulator ended, or does not answer any more."""


class Reply(NamedTuple):
    """What the simulator says after an action.

    Attributes:
        text: the observation.
        score: at most 1.0; below 0 after a failure.
        completed: all goals were reached, or the task failed.
    """

    text: str
    score: float
    completed: bool


class Simulator:
    """One simulator; not for use from several threads at a time."""

    def __init__(self, java: str | None, start_limit_s: float, heap_mb: int = HEAP_MB) -> None:
        """Start the machine (one to two seconds).

        Args:
            java: the option, see `find_java`.
            start_limit_s: how long the start may take (seconds).
            heap_mb: its largest heap (MB).

        Raises:
            SettingsError: `java` is no Java.
            DependencyNotInstalled: there is no Java, it is the wrong one, or scienceworld is not installed.
            EnvironmentFault: it does not start, or not within the limit; shows what it wrote.
        """
        self._heap_mb = heap_mb
        gateway, folder, jars = _library()
        found = find_java(java)
        # The pipe of stdin is never written to: the machine ends when it is closed. No file in /tmp: it may be full.
        command = [str(found.program), f"-Xmx{heap_mb}m", "-XX:+UseSerialGC", "-XX:-UsePerfData", *FLAGS]
        command += ["-XX:+ExitOnOutOfMemoryError", "-classpath", os.pathsep.join(jars)]
        command += ["py4j.GatewayServer", "--die-on-broken-pipe", "--enable-auth", "0"]
        try:
            self._process = subprocess.Popen(
                command,
                cwd=folder,  # where it reads its table of object types
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                start_new_session=True,  # Ctrl-C in a terminal reaches us alone
            )
        except OSError as error:
            raise DependencyNotInstalled(
                f"sciworld: {found.program} (from {found.source}) cannot be run ({error}); {INSTALL}"
            ) from error
        held: list[Any] = [self._process.stdin, self._process.stdout]
        self._end = weakref.finalize(self, _end, self._process, held, os.getpid())
        try:
            port, token = _greeting(self._process, found, start_limit_s)
            parameters = gateway.GatewayParameters(
                port=port, auth_token=token, read_timeout=ANSWER_LIMIT_S, enable_memory_management=False
            )
            self._gateway = gateway.JavaGateway(gateway_parameters=parameters)
            held.append(self._gateway)
            self._faults = (gateway.Py4JNetworkError, gateway.Py4JError, OSError)
            self._server = self._prepared(found)
        except BaseException:
            self._end()
            raise

    @property
    def pid(self) -> int:
        """Return the number of the machine's process."""
        return self._process.pid

    def load(self, task: str, variation: int, simplifications: str, *, golden: bool = False) -> str:
        """Start a task; return its description.

        Args:
            task: name of the type.
            variation: its number; the simulator knows no default.
            simplifications: as the simulator takes them.
            golden: find the golden path, too (0.05 to 12 seconds more).

        Raises:
            SimulatorDied: the machine ended.
            EnvironmentFault: there is no such task or variation.
        """
        with self._watched():
            problem = self._server.load(task, variation, simplifications, golden)
            description = str(self._server.getTaskDescription())
        if problem:
            raise EnvironmentFault(f"the simulator cannot load {task}, variation {variation}: {problem}")
        return description

    def golden_path(self) -> tuple[str, ...]:
        """Return the actions that `load` found."""
        with self._watched():
            return tuple(map(str, self._server.getGoldActionSequence()))

    def step(self, action: str) -> Reply:
        """Execute an action.

        Raises:
            SimulatorDied: the machine ended.
            EnvironmentFault: the simulator itself failed of the action.
        """
        with self._watched():
            text = str(self._server.step(action))
            reply = Reply(text, float(self._server.getScore()), bool(self._server.getCompleted()))
            inside = self._server.agentInterface().get() if reply.score < 0 else None
            broken = str(inside.getErrorStateMessage()) if inside is not None and inside.isInErrorState() else ""
        if broken:
            raise EnvironmentFault(f"the simulator failed of {action!r}: {broken}")
        return reply

    def close(self) -> None:
        """End the machine; calling it twice is fine."""
        self._end()

    def _prepared(self, java: Java) -> Any:
        """Check which Java it is, silence it, and return the simulator's interface."""
        try:
            system = self._gateway.jvm.java.lang.System
            check_java(java, str(system.getProperty("java.version")), str(system.getProperty("java.vm.name")))
            # It prints pages at each step; nobody reads its pipe from now on.
            silence = self._gateway.jvm.java.io.PrintStream(os.devnull)
            system.setOut(silence)
            system.setErr(silence)
            return self._gateway.jvm.scienceworld.runtime.pythonapi.PythonInterface()
        except self._faults as error:
            raise EnvironmentFault(
                f"sciworld: {java.program} (from {java.source}) started, but not the simulator in it ({_brief(error)})"
                "; install scienceworld again"
            ) from error

    @contextmanager
    def _watched(self) -> Iterator[None]:
        """Turn whatever the machine does wrong into SimulatorDied."""
        try:
            yield
        except self._faults as error:
            code = self._process.poll()
            state = "cannot go on" if code is None else f"ended with exit code {code}"
            raise SimulatorDied(
                f"the simulator's Java virtual machine (process {self.pid}, {self._heap_mb} MB of heap) {state} "
                f"({_brief(error)}); was it killed, or is memory short?"
            ) from error


def _library() -> tuple[Any, Path, list[str]]:
    """Import py4j and find the simulator.

    Returns:
        py4j's modules, the folder of scienceworld, and the classpath.
    """
    try:
        gateway = import_module("py4j.java_gateway")
        package = import_module("scienceworld.constants")
    except ImportError as error:
        raise DependencyNotInstalled(
            f"sciworld: the simulator is not installed ({error}); run pip install 'qlass[sciworld]'"
        ) from None
    # What py4j logs as errors, with tracebacks and partly as the root logger, we raise as errors of ours.
    logging.getLogger("py4j").setLevel(logging.CRITICAL)
    logging.getLogger().addFilter(_is_of_others)
    return gateway, Path(package.BASEPATH), [gateway.find_jar_path(), package.JAR_PATH]


def _is_of_others(record: logging.LogRecord) -> bool:
    return Path(record.pathname).parent.name != "py4j"


def _greeting(process: subprocess.Popen[bytes], java: Java, limit_s: float) -> tuple[int, str]:
    """Wait until the machine says the port that it listens at and the secret that opens it."""
    descriptor, read, deadline = cast("IO[bytes]", process.stdout).fileno(), b"", time.monotonic() + limit_s
    where = f"sciworld: {java.program} (from {java.source})"
    while read.count(b"\n") < 2 or not read.split(b"\n")[-3].strip().isdigit():
        left = deadline - time.monotonic()
        if left <= 0 or not select.select([descriptor], [], [], left)[0]:
            raise EnvironmentFault(
                f"{where} did not start the simulator within {limit_s:g} seconds; it wrote: {_tail(read)}; is the "
                "machine very busy? Set the option `start_limit_s` higher"
            )
        data = os.read(descriptor, 65536)
        if not data:
            raise DependencyNotInstalled(
                f"{where} ended with exit code {process.wait()} instead of starting the simulator; it wrote: "
                f"{_tail(read)}; needed is a HotSpot VM of version 8 or later: {INSTALL}"
            )
        read += data
    port, token, _ = read.split(b"\n")[-3:]
    return int(port), token.strip().decode("ascii")


def _end(process: subprocess.Popen[bytes], held: list[Any], owner: int) -> None:
    """Kill the machine, which has nothing to save; a fork of the process that started it leaves it alone."""
    if os.getpid() != owner:
        return
    for connection in held:
        connection.close()
    process.kill()
    process.wait()


def _tail(written: bytes) -> str:
    return " ".join(written.decode(errors="replace").split())[-_SHOWN:] or "nothing"


def _brief(error: BaseException) -> str:
    return " ".join(f"{type(error).__name__}: {error}".split())[:_SHOWN]
