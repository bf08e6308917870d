"""Child processes that never outlive us: commands under a supervisor, and workers that die with their parent.

A command runs in a session of its own under a supervisor: this file as a program. We hold the other end of the
supervisor's standard input. The kernel closes it however we die, SIGKILL included, and then the supervisor ends the
command with all its descendants. These are found as a tree, not as a process group: torchrun starts sessions of their
own, and `dvc` leaves its stage behind when it is killed. Linux; elsewhere orphans of a command are not found.
"""

from __future__ import annotations

import ctypes
import os
import select
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Self

if TYPE_CHECKING:
    import psutil

GRACE_S = 15.0
"""Seconds that processes have from SIGTERM to SIGKILL, for example to close their tracking run."""

RANKS = (
    "RANK", "WORLD_SIZE", "LOCAL_RANK", "LOCAL_WORLD_SIZE", "LOCAL_SIZE", "NODE_RANK", "GROUP_RANK", "GROUP_WORLD_SIZE",
    "ROLE_RANK", "ROLE_NAME", "ROLE_WORLD_SIZE", "CROSS_RANK", "CROSS_SIZE", "MASTER_ADDR", "MASTER_PORT", "NPROC",
    "FORK_LAUNCHED", "PYTHON_EXEC", "LOGLEVEL",
)  # fmt: skip
"""Variables by which launchers tell a process its rank, or are told how to launch: as torch, DeepSpeed, accelerate and
transformers read them. torchrun starts PYTHON_EXEC in place of Python, and fails of a LOGLEVEL that it does not know."""

RANK_PREFIXES = (
    "ACCELERATE_", "FSDP_", "MPI_LOCAL", "MV2_COMM_WORLD_", "OMPI_COMM_WORLD_", "PET_", "PMI_", "TORCHELASTIC_",
    "TORCH_ELASTIC_",
)  # fmt: skip
"""How more of them begin; from PET_* torchrun takes the defaults of its own arguments."""

_KILL_S = 15.0  # seconds that the kernel has to end what got SIGKILL: memory of a GPU is not freed at once
_MARGIN_S = 5.0  # seconds beyond both, after which something is wrong with the supervisor itself
_POLL_S = 0.5  # how long an exception that Prefect sends to a thread (a timeout) waits while a command is silent
_LOOK_S = 0.1  # how often the supervisor looks whether descendants that are not its children have ended
_PIPE_SIZE = 1 << 20  # bytes; no pipe holds more by default (64 KiB with pages of 4 KiB, 1 MiB with pages of 64 KiB)
_MAX_LINE = 4000  # bytes; the log of a run page holds no longer lines
_SET_DEATH_SIGNAL, _SET_CHILD_SUBREAPER = 1, 36  # linux/prctl.h


class Running:
    """A command that runs, with all that it starts.

    Leaving the body of a `with` statement ends them all: SIGTERM, a grace period, SIGKILL. So does losing this object.
    A process that we fork without exec holds our end of the pipe too, and hides our death as long as it lives.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        cwd: str | os.PathLike[str] | None = None,
        env: Mapping[str, str] | None = None,
        captured: bool = True,
        grace_s: float = GRACE_S,
    ) -> None:
        """Start the command; its standard input is empty.

        Args:
            command: program and arguments; no shell.
            cwd: its working directory; ours by default.
            env: its whole environment; ours by default.
            captured: whether `lines` yields what it writes; else that goes where our output goes.
            grace_s: seconds from SIGTERM to SIGKILL, for each of its processes.
        """
        self._longest_s = grace_s + _KILL_S + _MARGIN_S
        theirs, ours = os.pipe()
        # Not Popen's own pipe: Python keeps a Popen that is lost before its process has ended.
        self._hold = os.fdopen(ours, "wb", buffering=0)
        try:
            self._process = subprocess.Popen(
                [sys.executable, "-I", __file__, str(grace_s), *command],
                cwd=cwd,
                env=env,
                stdin=theirs,
                stdout=subprocess.PIPE if captured else None,
                stderr=subprocess.STDOUT if captured else None,
                bufsize=0,
                start_new_session=True,  # Ctrl-C in a terminal reaches us alone
            )
        except BaseException:
            self._hold.close()
            raise
        finally:
            os.close(theirs)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.ask_to_end()
        deadline = time.monotonic() + self._longest_s
        for _unread in self._output():  # what nobody reads would stop a process that writes while it closes
            if time.monotonic() > deadline:
                break
        self.end()
        if self._process.stdout is not None:
            self._process.stdout.close()

    def lines(self) -> Iterator[str]:
        """Yield lines of standard output and error as soon as each is complete, until the command has ended.

        Of a progress bar (carriage returns) it is the last state. Undecodable bytes become U+FFFD.
        """
        rest = b""
        for data in self._output():
            *lines, rest = (rest + data).split(b"\n")
            yield from map(_readable, lines)
            rest = rest[-16 * _MAX_LINE :]
        if rest:
            yield _readable(rest)

    def wait(self, timeout_s: float | None = None) -> int:
        """Wait for the end of the command and all that it started; return its exit code.

        It is 128 + n where signal n ended the command, 143 where we did, and 127 where it could not be started.

        Raises:
            subprocess.TimeoutExpired: it runs on.
        """
        code = self._process.wait(timeout_s)
        if code < 0:  # of the supervisor: somebody killed it, so it ended nobody
            self._kill_group()
        return _exit_code(code)

    def ask_to_end(self) -> None:
        """Let the supervisor end the command, without waiting for that."""
        self._hold.close()

    def end(self) -> None:
        """End the command and all that it started; does nothing when they have ended."""
        self.ask_to_end()
        try:
            self.wait(self._longest_s)
        except subprocess.TimeoutExpired:
            self._kill_group()
            self._process.wait()

    def _output(self) -> Iterator[bytes]:
        """Yield output as it comes, and nothing (`b""`) every now and then while the command is silent."""
        if self._process.stdout is None:
            return
        descriptor = self._process.stdout.fileno()
        poll = select.poll()
        poll.register(descriptor, select.POLLIN)
        ended = False
        while not ended:
            # Asked before reading, so that all that was written before the end is read: once, for what outlives even
            # the supervisor could go on writing.
            ended = self._process.poll() is not None
            if poll.poll(0 if ended else _POLL_S * 1000):
                data = os.read(descriptor, _PIPE_SIZE)
                if not data:
                    return
                yield data
            elif not ended:
                yield b""

    def _kill_group(self) -> None:
        """Kill the supervisor and all of its process group, which is what we can still find."""
        try:
            os.killpg(self._process.pid, signal.SIGKILL)
        except ProcessLookupError:
            return


def run(
    command: Sequence[str],
    *,
    cwd: str | os.PathLike[str] | None = None,
    env: Mapping[str, str] | None = None,
    on_line: Callable[[str], None] | None = None,
    grace_s: float = GRACE_S,
) -> int:
    """Run a command to its end and return its exit code (see `Running.wait`).

    Whatever interrupts us, an exception or death, also ends the command and all that it started.

    Args:
        command: program and arguments; no shell.
        cwd: its working directory; ours by default.
        env: its whole environment; ours by default.
        on_line: called with each line of standard output and error as soon as it is complete; without it they go
            where ours go.
        grace_s: seconds from SIGTERM to SIGKILL.
    """
    with Running(command, cwd=cwd, env=env, captured=on_line is not None, grace_s=grace_s) as running:
        if on_line is not None:
            for line in running.lines():
                on_line(line)
        return running.wait()


def without_ranks(env: Mapping[str, str]) -> dict[str, str]:
    """Return an environment without `RANKS`, for the processes of a launcher.

    Slurm, Kubeflow, a notebook or an outer launcher leave them to programs that are no ranks. What describes the
    machine (NCCL_*, GLOO_*, CUDA_*) stays.
    """
    return {name: value for name, value in env.items() if name not in RANKS and not name.startswith(RANK_PREFIXES)}


def die_with_parent(parent: int) -> None:
    """Ask Linux to kill this process when its parent dies, also by SIGKILL; elsewhere nothing happens.

    For workers that are no command of their own (multiprocessing). The parent is the thread that started us.

    Args:
        parent: its process id. Where that is our parent no longer, we end at once.
    """
    if sys.platform == "linux":
        _prctl(_SET_DEATH_SIGNAL, signal.SIGKILL)
        if os.getppid() != parent:
            os._exit(1)


def _prctl(option: int, value: int) -> None:
    """Set an attribute of this process (Linux)."""
    ctypes.CDLL(None).prctl(option, value, 0, 0, 0)


def _readable(line: bytes) -> str:
    """Decode a line of output."""
    return line.rstrip(b"\r").rsplit(b"\r", 1)[-1][:_MAX_LINE].decode(errors="replace")


def _exit_code(code: int) -> int:
    """Return an exit code as shells show it: 128 + n for signal n."""
    return code if code >= 0 else 128 - code


def _supervise(grace_s: float, command: list[str]) -> int:
    """Run a command; when it ends, standard input closes or SIGTERM comes, end all its descendants.

    Everything happens in this one thread, so that each process gets one SIGTERM: a second would interrupt what the
    first one made it do.
    """
    if sys.platform == "linux":
        _prctl(_SET_CHILD_SUBREAPER, 1)  # orphans become our children, so that they are found
    signals, written = os.pipe()
    os.set_blocking(written, False)
    signal.set_wakeup_fd(written)
    for number in (signal.SIGCHLD, signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda *_: None)
    try:
        child = os.posix_spawnp(
            command[0],
            command,
            os.environ,
            file_actions=[(os.POSIX_SPAWN_OPEN, 0, os.devnull, os.O_RDONLY, 0)],
            setsigdef=[signal.SIGPIPE, signal.SIGXFSZ],  # Python ignores them
        )
    except OSError as error:
        sys.stderr.write(f"cannot start {command[0]}: {error.strerror}\n")
        return 127
    import psutil  # as slow as all before it, so beside the command; at the end there might be no memory for it

    me = psutil.Process()
    asked = False
    while (code := _ended_children().get(child)) is None and not asked:
        ready, _, _ = select.select([0, signals], [], [])
        asked = 0 in ready or not {signal.SIGTERM, signal.SIGINT}.isdisjoint(os.read(signals, _PIPE_SIZE))
    _end_descendants(me, grace_s, signals)
    return 128 + signal.SIGTERM if code is None else _exit_code(code)


def _ended_children() -> dict[int, int]:
    """Return the exit codes of children that have ended since the last call, adopted ones among them."""
    codes: dict[int, int] = {}
    while True:
        try:
            pid, status = os.waitpid(-1, os.WNOHANG)
        except ChildProcessError:  # there are no children
            return codes
        if not pid:
            return codes
        codes[pid] = os.waitstatus_to_exitcode(status)


def _end_descendants(me: psutil.Process, grace_s: float, signals: int) -> None:
    """Send SIGTERM to every descendant, and SIGKILL to what is left after the grace period.

    What comes into being during the grace period belongs to somebody who cleans up, and is left alone until that
    process has ended.

    Args:
        me: this process.
        grace_s: seconds.
        signals: descriptor that becomes readable when a child ends.
    """
    import psutil

    for number, seconds in ((signal.SIGTERM, grace_s), (signal.SIGKILL, _KILL_S)):
        deadline = time.monotonic() + seconds
        told: set[psutil.Process] = set()
        due = me.children(recursive=True)
        while due:
            for process in due:  # parents first: one that learns of its child's death before takes it for a failure
                if process in told:
                    continue
                try:
                    process.send_signal(number)
                except psutil.Error:  # it has ended, or has another user's rights
                    continue
            told.update(due)
            if time.monotonic() >= deadline:
                break
            if select.select([signals], [], [], _LOOK_S)[0]:
                os.read(signals, _PIPE_SIZE)
            _ended_children()
            due = me.children()
        else:
            return


if __name__ == "__main__":
    sys.exit(_supervise(float(sys.argv[1]), sys.argv[2:]))
