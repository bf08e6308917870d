"""Environment variables of every process of the pipeline; set once, before torch, mlflow or dvc are imported.

What determines a result stands in params.yaml, so a variable that would decide too is overridden here, with the reason; one
that cannot be undone once Python has started is refused. docs/operations.md lists both, and what is obeyed.
Standard library only, so that flows and programs can import it first.
"""

from __future__ import annotations

import codecs
import locale
import os
import sys
from dataclasses import dataclass
from pathlib import Path

from qlass import processes
from qlass.errors import SettingsError

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


@dataclass(frozen=True, slots=True)
class Override:
    """Variables whose values are not the user's to choose.

    Attributes:
        names: of the variables; one that ends in `*` stands for all that begin so.
        reader: the libraries that would obey them.
        reason: why we do not let them.
        value: what they get; None: they are removed.
    """

    names: tuple[str, ...]
    reader: str
    reason: str
    value: str | None = None

    def covers(self, name: str) -> bool:
        """Say whether this is about a variable."""
        return any(name.startswith(own[:-1]) if own.endswith("*") else name == own for own in self.names)


OVERRIDDEN = (
    Override(
        (*processes.RANKS, *(f"{prefix}*" for prefix in processes.RANK_PREFIXES)),
        "torch, DeepSpeed, accelerate, transformers",
        "`ranks` of params.yaml says how many there are, and only our own launcher which one a process is. A stage that "
        "`torchrun` or `srun` starts several times is so many single processes; all but the first end with 75",
    ),
    Override(("DS_ACCELERATOR",), "DeepSpeed", "`base.device` decides; set to the device that it chose"),
    Override(
        ("NVIDIA_TF32_OVERRIDE", "TORCH_ALLOW_TF32_CUBLAS_OVERRIDE"),
        "cuBLAS, torch",
        "`precision` of params.yaml decides how precisely is computed",
    ),
    Override(
        ("MLFLOW_RUN_ID", "MLFLOW_EXPERIMENT_ID", "MLFLOW_EXPERIMENT_NAME"),
        "MLflow",
        "each stage has a run of its own, in the experiment `tracking.experiment`",
    ),
    Override(
        (
            "MLFLOW_ACTIVE_MODEL_ID",
            "_MLFLOW_ACTIVE_MODEL_ID",
            "MLFLOW_TRACE_SAMPLING_RATIO",
            "MLFLOW_TRACING_DESTINATION",
        ),
        "MLflow",
        "traces belong to the stage's run; `tracking.max_traces` says how many there are",
    ),
    Override(
        ("OTEL_*",),
        "MLflow, through OpenTelemetry",
        "they name a cluster's collector, or sample for it; traces then went there, or nowhere, and not into the run",
    ),
    Override(
        ("MLFLOW_ENABLE_ASYNC_LOGGING", "MLFLOW_ENABLE_ASYNC_TRACE_LOGGING"),
        "MLflow",
        "a run is complete when it is closed",
        "false",
    ),
    Override(
        (
            "GIT_DIR",
            "GIT_WORK_TREE",
            "GIT_INDEX_FILE",
            "GIT_COMMON_DIR",
            "GIT_OBJECT_DIRECTORY",
            "GIT_ALTERNATE_OBJECT_DIRECTORIES",
            "GIT_NAMESPACE",
            "GIT_PREFIX",
        ),
        "git, DVC",
        "git sets them inside hooks; the commit that a run names is that of the project's folder",
    ),
)
"""What holds whatever the user has set, because params.yaml or the project's folder decides."""


def apply(root: Path | None = None) -> None:
    """Override in `os.environ`, set what is unset, and put this interpreter's programs (dvc, ninja) first on PATH.

    Args:
        root: the repository; the working directory by default. Compiled DeepSpeed extensions go to `root/.torch_ext`.
    """
    for override in OVERRIDDEN:
        for name in filter(override.covers, [*os.environ]):
            del os.environ[name]
        if override.value is not None:
            os.environ.update(dict.fromkeys(override.names, override.value))
    for name, value in DEFAULTS.items():
        os.environ.setdefault(name, value)
    ask_this_machine_directly()
    if not Path("/dev/nvidiactl").exists():
        os.environ["DS_ACCELERATOR"] = "cpu"  # else DeepSpeed warns in every process that there is no GPU
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


REFUSED = {
    "PYTHONOPTIMIZE": "2 removes docstrings, without which transformers loads no model",
    "PYTHONWARNINGS": "`error` makes an exception of every warning of a library",
    "PYTHONINSPECT": "Python would wait for input after a program, and lose its exit code",
    "PYTHONUTF8": "0 in a locale without letters beyond ASCII: torch cannot read its own files then",
    "PYTHONSAFEPATH": "`python -m` would not look into the project's folder, and could run the code of another one",
}
"""Variables of Python itself that would make a program fail, later and without a word about them."""


def check() -> None:
    """Refuse what Python has obeyed already and no program of ours works with.

    Raises:
        SettingsError: a variable in `REFUSED` has a value that its reason is about.
    """
    ascii_only = codecs.lookup(locale.getpreferredencoding(False)).name == "ascii"
    wrong = {
        "PYTHONOPTIMIZE": sys.flags.optimize > 1,
        "PYTHONWARNINGS": any(
            part.strip().startswith("error") for part in os.environ.get("PYTHONWARNINGS", "").split(",")
        ),
        "PYTHONINSPECT": bool(os.environ.get("PYTHONINSPECT")),
        "PYTHONUTF8": ascii_only,
        "PYTHONSAFEPATH": bool(os.environ.get("PYTHONSAFEPATH")),
    }
    for name, reason in REFUSED.items():
        if wrong[name]:
            raise SettingsError(
                f"the environment variable {name}: found {os.environ.get(name)!r}; unset it: {reason.replace('`', '')}"
            )
