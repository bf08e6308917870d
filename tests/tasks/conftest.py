"""A copy of the repository's pipeline in a temporary folder, with its own MLflow store: real files, real SQLite."""

import importlib
import logging
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from tasks.project import variables
from tasks.project.settings import Overrides
from tasks.running import runner

REPOSITORY = Path(__file__).parents[2]
NO_OVERRIDES: dict[str, Any] = {section: {} for section in Overrides.model_fields}
PARAMS = {
    "run.envs": ["corridor"],
    "run.policies": ["sft"],
    "run.searches": ["qlass"],
    "base.seed": 0,
    "base.workers": 1,
    "base.fanout": "processes",
    "base.source": "models/reader-3m",
    "base.revision": None,
    "base.chat_format": "qlass",
    "base.max_length": 2560,
    "envs.corridor": {
        "max_steps": 12,
        "panel": {"train": 24, "dev": 8, "test_seen": 16, "test_unseen": 16},
        "options": {"length": 5, "rooms": 3},
        "overrides": NO_OVERRIDES,
    },
    "expert.thoughts": True,
    "recipes.sft.trajectories": None,
    "recipes.sft.ranks": 1,
    "qnet.ranks": 1,
    "label.gamma": 0.9,
    "evaluate.splits": "test",
    "report.bootstrap": 500,
    "report.confidence": 0.95,
}
"""What tests rely on; the other numbers of params.yaml may be tuned without touching a test."""

Stage = Callable[..., tuple[int, str]]


@pytest.fixture(scope="session")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return an MLflow store with tables and no runs; creating one takes seconds, copying it does not."""
    folder = tmp_path_factory.mktemp("store")
    code = "from pathlib import Path; from tasks.experiments import tracking; tracking.connect(Path.cwd())"
    subprocess.run([sys.executable, "-c", code], cwd=folder, env=clean_environment(), check=True)
    return folder / "mlflow.db"


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Undo what programs that run in this process make of its signals."""
    handlers = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    signal.set_wakeup_fd(-1)
    for number, handler in handlers.items():
        signal.signal(number, handler)


@pytest.fixture
def project(tmp_path: Path, empty_store: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return a folder with code, dvc.yaml and a params.yaml for the smallest corridor; it is the working directory."""
    for name in ("qlass", "tasks"):
        shutil.copytree(REPOSITORY / name, tmp_path / name, ignore=shutil.ignore_patterns("__pycache__"))
    shutil.copy(REPOSITORY / "dvc.yaml", tmp_path)
    shutil.copy(REPOSITORY / "params.yaml", tmp_path)
    set_params(tmp_path, PARAMS)
    (tmp_path / ".dvcignore").write_text("__pycache__/\n")
    shutil.copy(empty_store, tmp_path / "mlflow.db")
    monkeypatch.chdir(tmp_path)
    for name in set(os.environ) - set(clean_environment()):
        monkeypatch.delenv(name)
    return tmp_path


@pytest.fixture(scope="session")
def tiny_policy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of a random Llama of two layers whose tokenizer knows any text (bytes)."""
    code = (REPOSITORY / "tests" / "tasks" / "tiny_policy.py").read_text()
    folder = tmp_path_factory.mktemp("models") / "tiny"
    subprocess.run([sys.executable, "-c", code, str(folder)], env=clean_environment(), check=True)
    return folder


@pytest.fixture
def stage(project: Path, caplog: pytest.LogCaptureFixture) -> Iterator[Stage]:
    """Return a function that runs a stage program in this process, which has imported MLflow already, to its end.

    It returns the exit code and the log.
    """
    sys.path.insert(0, str(project))

    def run(name: str, *arguments: str) -> tuple[int, str]:
        caplog.clear()
        code = runner.run(name, importlib.import_module(f"tasks.stages.{name}").main, arguments)
        return code, caplog.text

    yield run
    sys.path.remove(str(project))
    logging.captureWarnings(capture=False)


def set_params(project: Path, changes: dict[str, Any]) -> None:
    """Change params.yaml by dotted keys; every key must be there."""
    yaml, path = YAML(), project / "params.yaml"
    params = yaml.load(path)
    for key, value in changes.items():
        *sections, name = key.split(".")
        inner = params
        for section in sections:
            inner = inner[section]
        assert name in inner, key
        inner[name] = value
    yaml.dump(params, path)


@pytest.fixture
def params(project: Path) -> Callable[[dict[str, Any]], None]:
    """Return a function that changes params.yaml by dotted keys."""
    return partial(set_params, project)


def clean_environment() -> dict[str, str]:
    """Return this process's environment without what would tie a stage to another run."""
    dropped = (
        "MLFLOW_TRACKING_URI",
        "MLFLOW_RUN_ID",
        "QLASS_PARENT_RUN_ID",
        "QLASS_FLOW_RUN_ID",
        "DVC_ROOT",
        "DVC_STAGE",
    )
    kept = {name: value for name, value in os.environ.items() if name not in dropped}
    return variables.DEFAULTS | kept | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(REPOSITORY)}


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Pass over what MLflow's own tables warn of under the newest SQLAlchemy; it is not ours to repair."""
    for item in items:
        if "tests/tasks/" in str(item.path):
            item.add_marker(pytest.mark.filterwarnings("ignore:The ``noload`` loader strategy is deprecated"))
