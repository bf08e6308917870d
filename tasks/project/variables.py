"""Environment variables of every process of the pipeline; set once, before torch, mlflow or dvc are imported.

None of them changes a result. Standard library only, so that flows and programs can import it first.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path

DEFAULTS = {
    "DO_NOT_TRACK": "1",
    "DVC_NO_ANALYTICS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
    "MLFLOW_DISABLE_TELEMETRY": "true",
    "MLFLOW_SUPPRESS_PRINTING_URL_TO_STDOUT": "true",
    "MLFLOW_SERVER_ENABLE_JOB_EXECUTION": "false",
    # Bars are noise in a log.
    "MLFLOW_ENABLE_ARTIFACTS_PROGRESS_BAR": "false",
    "TQDM_DISABLE": "1",
    # A tracking server that is down costs seconds, not the ten minutes of mlflow's default seven retries.
    "MLFLOW_HTTP_REQUEST_MAX_RETRIES": "1",
    "MLFLOW_HTTP_REQUEST_TIMEOUT": "20",
    # Waiting threads sleep: spinning ones slow a shared machine down by up to thirty times.
    "OMP_WAIT_POLICY": "PASSIVE",
    "TOKENIZERS_PARALLELISM": "false",
    "CUBLAS_WORKSPACE_CONFIG": ":4096:8",
}
"""Values for variables that the user has not set."""

THIS_MACHINE = ("localhost", "127.0.0.1", "::1", "0.0.0.0", "127.0.0.0/8")  # noqa: S104  asked, not bound
"""What NO_PROXY must hold for the clients of Prefect (httpx: no networks), MLflow (requests) and websockets (urllib)."""


def apply(root: Path | None = None) -> None:
    """Set what is unset in `os.environ`, and put this interpreter's programs (dvc, ninja, deepspeed) first on PATH.

    Args:
        root: the repository; the working directory by default. Compiled DeepSpeed extensions go to `root/.torch_ext`.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    ask_this_machine_directly()
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns in every process that there is no GPU
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str((root or Path.cwd()).resolve() / ".torch_ext"))
    programs = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != programs:
        os.environ["PATH"] = os.pathsep.join([programs, path])


def ask_this_machine_directly() -> None:
    """Where a proxy is set, except this machine from it in `os.environ`: no proxy reaches a server on our loopback.

    Both spellings of NO_PROXY are set, since clients read either, and keep what the user has there.
    """
    spelled = {name.lower() for name, value in os.environ.items() if value}
    if not any(name.endswith("_proxy") for name in spelled - {"no_proxy"}):
        return
    given = {name: os.environ.get(name, "") for name in ("no_proxy", "NO_PROXY")}
    for name, value in given.items():
        hosts = [host.strip() for host in (value or "".join(given.values())).split(",") if host.strip()]
        missing = [] if hosts == ["*"] else [host for host in THIS_MACHINE if host not in hosts]
        os.environ[name] = ",".join([*hosts, *missing])
