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


def apply(root: Path | None = None) -> None:
    """Set what is unset in `os.environ`, and put this interpreter's programs (dvc, ninja, deepspeed) first on PATH.

    Args:
        root: the repository; the working directory by default. Compiled DeepSpeed extensions go to `root/.torch_ext`.
    """
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    if not Path("/dev/nvidiactl").exists():
        os.environ.setdefault("DS_ACCELERATOR", "cpu")  # else DeepSpeed warns in every process that there is no GPU
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str((root or Path.cwd()).resolve() / ".torch_ext"))
    programs = str(Path(sys.executable).parent)
    path = os.environ.get("PATH", "")
    if path.split(os.pathsep)[0] != programs:
        os.environ["PATH"] = os.pathsep.join([programs, path])
