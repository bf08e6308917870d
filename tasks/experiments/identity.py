"""The five names of one execution, as tags: git commit, dvc.lock hash, DVC experiment, Prefect flow run, MLflow run.

Outputs of stages never contain any of them. The MLflow run is the one that carries the tags; the hash of `dvc.lock` is
known when DVC has recorded the stage, so `tasks.pipeline` (or the flow) adds it afterwards.

Beside them a run names the process that writes it, by which a later process knows whether it is still written.
"""

from __future__ import annotations

import logging
import os
import socket
import subprocess
from collections.abc import Mapping
from pathlib import Path

import psutil

logger = logging.getLogger(__name__)

FLOW_RUN = "QLASS_FLOW_RUN_ID"
"""Variable in which the flow gives its Prefect flow run id to the stages."""

_WRITTEN = ("dvc.lock", "data", "runs", "qlass/envs/*/installed.json", "params.yaml")
"""What the pipeline writes below the project, and its settings."""

_GIT_S = 20.0
"""Seconds in which git must answer; its tags are not worth a longer wait."""


def identities(root: Path) -> dict[str, str]:
    """Return the names known before a stage runs; absent ones are left out."""
    tags = {
        "git.commit": _git(root, "rev-parse", "HEAD"),
        "dvc.stage": os.environ.get("DVC_STAGE"),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "prefect.flow_run_id": os.environ.get(FLOW_RUN) or os.environ.get("PREFECT__FLOW_RUN_ID"),
    }
    if tags["git.commit"]:
        # What the pipeline itself writes does not make the code dirty, nor do the settings, which a run has on record.
        changes = _git(root, "status", "--porcelain", "--", ".", *(f":!{path}" for path in _WRITTEN))
        tags["git.dirty"] = None if changes is None else str(changes != "").lower()
    return {name: value for name, value in tags.items() if value}


def process_tags(root: Path) -> dict[str, str]:
    """Return tags that name this process: its checkout, its machine, and which of that machine's processes it is."""
    return {"root": str(root), **_machine(), "process": _name(psutil.Process())}


def is_dead(tags: Mapping[str, str], root: Path) -> bool:
    """Say whether `process_tags` named a process of this checkout and this machine that has ended.

    What another checkout or another machine runs, or what no process is named for, may live: this is False then.
    """
    known = {"root": str(root), **_machine()}
    if "process" not in tags or any(tags.get(name) != value for name, value in known.items()):
        return False
    try:
        process = psutil.Process(int(tags["process"].partition(" ")[0]))
        # An orphan whose new parent does not wait for it (a container without an init) stays a zombie.
        return process.status() == psutil.STATUS_ZOMBIE or _name(process) != tags["process"]
    except psutil.NoSuchProcess:
        return True


def _machine() -> dict[str, str]:
    """Return tags within which a process id means one process: containers can share the name of a host, not this."""
    namespace = Path("/proc/self/ns/pid")
    return {"host": socket.gethostname(), "pid_namespace": str(namespace.readlink()) if namespace.exists() else "none"}


def _name(process: psutil.Process) -> str:
    """Return id and start of a process: ids are used again. The start counts from boot, as clocks may be set."""
    return f"{process.pid} {process.create_time() - psutil.boot_time():.2f}"


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git prints, or None outside a repository, without git, or where git does not answer in time."""
    try:
        done = subprocess.run(
            ["git", *arguments],
            cwd=root,
            # It looks and never asks, and errors are in English.
            env={**os.environ, "GIT_OPTIONAL_LOCKS": "0", "GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=_GIT_S,
            check=False,
            start_new_session=True,  # without a terminal, on which a helper of its could ask for a password
        )
    except OSError:  # no git here
        return None
    except subprocess.TimeoutExpired:
        said = f"no answer in {_GIT_S:.0f} s"
    else:
        if done.returncode == 0:
            return os.fsdecode(done.stdout).strip()
        said = os.fsdecode(done.stderr).strip()
        if "not a git repository" in said:
            return None
    logger.warning("git=unknown command=%r error=%r; the run is tracked without its tags", arguments[0], said)
    return None
