"""Run a command and end all that it started when standard input closes: `python flows/supervise.py COMMAND...`.

The flow holds the other end of standard input. The kernel closes it however the flow dies, SIGKILL included; a child
that prints nothing would otherwise live on. The whole tree of processes is ended, not the process group: torchrun and
others start sessions of their own, and `dvc` leaves its stage behind when it is killed.
"""

from __future__ import annotations

import ctypes
import os
import signal
import subprocess
import sys
import threading

import psutil

GRACE_S = 15  # what a stage has to close its MLflow run
SET_CHILD_SUBREAPER = 36  # linux/prctl.h


def adopt_orphans() -> None:
    """Become the parent of descendants whose own parent died, so that they are found (Linux)."""
    if sys.platform == "linux":
        ctypes.CDLL(None).prctl(SET_CHILD_SUBREAPER, 1, 0, 0, 0)


def end_descendants() -> None:
    """Send SIGTERM to every descendant, and SIGKILL to what is left after `GRACE_S` seconds."""
    me = psutil.Process()
    for send, wait_s in ((psutil.Process.terminate, GRACE_S), (psutil.Process.kill, GRACE_S)):
        processes = me.children(recursive=True)
        for process in processes:
            try:
                send(process)
            except psutil.NoSuchProcess:
                continue
        psutil.wait_procs(processes, timeout=wait_s)


def main(command: list[str]) -> int:
    """Return the exit code of the command: 128 + n where signal n ended it, 143 where we did."""
    adopt_orphans()
    ended = threading.Event()

    def end(*_: object) -> None:
        ended.set()
        end_descendants()

    def end_with_standard_input() -> None:
        os.read(0, 1)  # returns at end of file: the flow is gone, or asks for the end
        end()

    signal.signal(signal.SIGTERM, end)
    child = subprocess.Popen(command, stdin=subprocess.DEVNULL)
    threading.Thread(target=end_with_standard_input, daemon=True).start()
    code = child.wait()
    end_descendants()  # what a finished command left behind
    if ended.is_set():
        return 128 + signal.SIGTERM
    return code if code >= 0 else 128 - code


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
