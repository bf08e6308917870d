"""Prefect flows: when and where the stages of `dvc.yaml` run. No DAG, no cache and no number is defined here."""

import os

# Read when prefect is imported. Where no server is configured it starts one of its own, slowly on a busy machine.
os.environ.setdefault("PREFECT_SERVER_EPHEMERAL_STARTUP_TIMEOUT_SECONDS", "120")
os.environ.setdefault("PREFECT_SERVER_ANALYTICS_ENABLED", "false")
