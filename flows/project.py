"""Where the project lies, and the environment of the processes that flows start."""

from __future__ import annotations

import os
from pathlib import Path

import httpx

from qlass.errors import SettingsError
from tasks.project import variables

RESULTS = "data/report/results.md"
REPORT = "data/report/index.html"


def project_root() -> Path:
    """Return the folder of `dvc.yaml`: this repository, or `$QLASS_ROOT` (a checkout elsewhere, a test project).

    Every path and subprocess of a flow starts here, so the working directory of a worker does not matter.

    Raises:
        FileNotFoundError: the folder is not a DVC project.
    """
    named = os.environ.get("QLASS_ROOT")
    root = Path(named).expanduser().resolve() if named else Path(__file__).resolve().parents[1]
    missing = [name for name in ("dvc.yaml", ".dvc") if not (root / name).exists()]
    if missing:
        origin = "QLASS_ROOT" if named else "the folder above flows/"
        raise FileNotFoundError(
            f"flows: no {' and no '.join(missing)} in {root} ({origin}). "
            "Point QLASS_ROOT to a checkout of the project, or run `dvc init` there."
        )
    variables.apply(root)
    return root


def check_proxies() -> None:
    """Let Prefect's client ask a server on this machine directly, and check what it reads about proxies before it does.

    Raises:
        SettingsError: a variable of the environment holds what httpx, Prefect's client, cannot use; names it.
    """
    variables.ask_this_machine_directly()
    try:
        httpx.Client().close()
    except (ImportError, ValueError, httpx.InvalidURL) as error:
        names = sorted(filter(_unusable, os.environ)) or ["http_proxy, https_proxy, all_proxy or no_proxy"]
        raise SettingsError(
            f"{names[0]}: Prefect's client cannot use this environment variable ({type(error).__name__}); allowed: "
            "http://HOST:PORT or https://HOST:PORT, also socks5://HOST:PORT after `pip install 'httpx[socks]'`, and in "
            "no_proxy hosts without brackets and IPv4 networks; correct or unset it, or use `make run`, which needs no Prefect"
        ) from None


def _unusable(name: str) -> bool:
    """Say whether httpx stumbles over a variable of the environment, alone."""
    value = os.environ[name]
    try:
        if name.lower() == "no_proxy":
            hosts = [host.strip() for host in value.split(",") if host.strip() not in (*variables.THIS_MACHINE, "")]
            httpx.Client(trust_env=False, mounts={f"all://*{host}": None for host in hosts}).close()
        elif name.lower() in ("http_proxy", "https_proxy", "all_proxy") and value:
            httpx.Client(trust_env=False, proxy=value if "://" in value else f"http://{value}").close()
    except (ImportError, ValueError, httpx.InvalidURL):
        return True
    return False


def stage_environment(flow_run_id: str, parent_run_id: str | None) -> dict[str, str]:
    """Return the environment of a stage: ours, after `tasks.project.variables`. Nothing in it changes a result.

    Args:
        flow_run_id: id of the Prefect flow run.
        parent_run_id: id of the MLflow run of this pipeline run; None where tracking is down.
    """
    env = {name: value for name, value in os.environ.items() if name != "QLASS_PARENT_RUN_ID"}
    env["PYTHONUNBUFFERED"] = "1"  # a line of the log arrives when it is written, not when a buffer is full
    env["QLASS_FLOW_RUN_ID"] = flow_run_id
    if parent_run_id:
        env["QLASS_PARENT_RUN_ID"] = parent_run_id
    return env
