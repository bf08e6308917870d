"""The five names of one execution, as tags: git commit, dvc.lock hash, DVC experiment, Prefect flow run, MLflow run.

Outputs of stages never contain any of them. The MLflow run is the one that carries the tags; the hash of `dvc.lock` is
known when DVC has recorded the stage, so `tasks.pipeline` (or the flow) adds it afterwards.
"""

from __future__ import annotations

import os
import subprocess
from pathlib import Path

FLOW_RUN = "QLASS_FLOW_RUN_ID"
"""Variable in which the flow gives its Prefect flow run id to the stages."""


def identities(root: Path) -> dict[str, str]:
    """Return the names known before a stage runs; absent ones are left out."""
    tags = {
        "git.commit": _git(root, "rev-parse", "HEAD"),
        "dvc.stage": os.environ.get("DVC_STAGE"),
        "dvc.exp_name": os.environ.get("DVC_EXP_NAME"),
        "prefect.flow_run_id": os.environ.get(FLOW_RUN) or os.environ.get("PREFECT__FLOW_RUN_ID"),
    }
    if tags["git.commit"]:
        # What the pipeline itself writes does not make the code dirty.
        changes = _git(root, "status", "--porcelain", "--", ".", ":!dvc.lock", ":!data", ":!runs")
        tags["git.dirty"] = "false" if changes == "" else "true"
    return {name: value for name, value in tags.items() if value}


def _git(root: Path, *arguments: str) -> str | None:
    """Return what git prints, or None outside a repository or without git."""
    try:
        done = subprocess.run(["git", *arguments], cwd=root, capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
