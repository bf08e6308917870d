"""Prefect flows: when and where the stages of `dvc.yaml` run. No DAG, no cache and no number is defined here."""

import os
from pathlib import Path

from tasks.experiments import store

# Read when prefect is imported. Where no server is configured it starts one of its own, slowly on a busy machine.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")

# Prefect 3.9 puts the path of its database into an address as it is, where `?` and `%41` mean something else.
_DATABASE = Path(os.environ.get("PREFECT_HOME", "~/.prefect")).expanduser() / "prefect.db"
_ADDRESS = store.address(_DATABASE)
if f"sqlite:///{_DATABASE}" != _ADDRESS:
    os.environ.setdefault("PREFECT_SERVER_DATABASE_CONNECTION_URL", _ADDRESS.replace("sqlite", "sqlite+aiosqlite", 1))
