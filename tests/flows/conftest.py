"""A real DVC project of four trivial stages, a real Prefect server and a real MLflow store for the flows."""

from __future__ import annotations

import json
import os
import re
import subprocess
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

import tasks.project.settings  # noqa: F401  now, with PARAMS: the two are edited together, and the reading is strict

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

REPOSITORY = Path(__file__).resolve().parents[2]
PARAMS = (REPOSITORY / "params.yaml").read_text()


class Project:
    """The toy project in `root`, made of the repository's own params.yaml with the smallest environment."""

    def __init__(self, root: Path) -> None:
        self.root = root
        root.mkdir()
        for source, name in (("toy.py", "toy.py"), ("toy.yaml", "dvc.yaml")):
            (root / name).write_text(Path(__file__).with_name(source).read_text())
        (root / "code.txt").write_text("1")
        (root / "tasks").mkdir()  # stands before the repository's own, since programs run in the project's root
        for program in ("register", "evaluate_champion"):
            (root / "tasks" / f"{program}.py").write_text(
                f"import runpy, sys\nsys.argv = ['toy.py', '{program}', *(sys.argv[1:] or '-')]\nrunpy.run_path('toy.py')"
            )
        (root / "tasks" / "__init__.py").write_text("")
        # The corridor has fewer tasks than the default run learns from.
        self.params = re.sub(r"(?m)^    trajectories:.*$", "    trajectories: null", PARAMS)
        self.change("envs", "[corridor]")
        self.change("policies", "[sft]")
        self.change("searches", "[]")
        self.dvc("init", "--no-scm", "--quiet")

    def dvc(self, *arguments: str) -> str:
        """Run a dvc command in the project."""
        command = [sys.executable, "-m", "dvc", *arguments]
        return subprocess.run(command, cwd=self.root, check=True, capture_output=True, text=True).stdout

    def change(self, key: str, value: object) -> None:
        """Change the first parameter of that name."""
        self.params = re.sub(rf"(?m)^  {key}:.*$", f"  {key}: {value}", self.params, count=1)
        (self.root / "params.yaml").write_text(self.params)

    def take_calls(self) -> list[dict[str, Any]]:
        """Return what ran since the last call."""
        path = self.root / "calls.log"
        lines = path.read_text().splitlines() if path.exists() else []
        path.unlink(missing_ok=True)
        return [json.loads(line) for line in lines]

    def ran(self) -> list[str]:
        """Return the names of the stages that ran since the last call, sorted."""
        return sorted(call["stage"] for call in self.take_calls())

    def hanging(self) -> list[int]:
        """Wait for the stage in TOY_HANG, and return its process id and that of its child."""
        Watch.until((self.root / "pids").exists, 240)
        return [int(pid) for pid in (self.root / "pids").read_text().split()]


class Watch:
    """What tests wait for."""

    @staticmethod
    def until(condition: Callable[[], object], seconds: float) -> None:
        """Wait for a condition, or fail."""
        deadline = time.monotonic() + seconds
        while not condition():
            assert time.monotonic() < deadline, f"not within {seconds} s"
            time.sleep(0.1)

    @staticmethod
    def alive(pid: int) -> bool:
        """Tell whether a process runs; a zombie does not."""
        try:
            return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
        except FileNotFoundError:
            return False

    def all_dead(self, pids: list[int], seconds: float) -> None:
        """Wait until none of the processes runs, or fail."""
        self.until(lambda: not any(map(self.alive, pids)), seconds)


@pytest.fixture(scope="session")
def watch() -> Watch:
    """Return what waits for processes and files."""
    return Watch()


@pytest.fixture(autouse=True)
def _own_environment(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """Keep what a flow sets in the environment inside the test; one MLflow store for all (a new one takes 8 s)."""
    before = dict(os.environ)
    store = tmp_path_factory.getbasetemp() / "mlflow.db"
    os.environ["MLFLOW_TRACKING_URI"] = f"sqlite:///{store}"
    os.environ["DVC_NO_ANALYTICS"] = "1"
    os.environ["PATH"] = os.pathsep.join([str(Path(sys.executable).parent), before["PATH"]])
    yield
    os.environ.clear()
    os.environ.update(before)


@pytest.fixture
def project(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    """Return a fresh project to which the flows are pointed; nothing ran yet."""
    made = Project(tmp_path / "project")
    monkeypatch.setenv("QLASS_ROOT", str(made.root))
    return made


@pytest.fixture(scope="module")
def prefect_api(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a throw-away Prefect server for the tests of a module, and return its address.

    It ends with the module: Prefect's websocket to it draws a number from `random` every 20 seconds, in a thread, and
    Hypothesis fails a test during which the state of `random` changes.
    """
    os.environ["PREFECT_HOME"] = str(tmp_path_factory.mktemp("prefect"))
    os.environ["PREFECT_SERVER_ANALYTICS_ENABLED"] = "false"
    from prefect.events.worker import EventsWorker
    from prefect.settings import PREFECT_API_URL
    from prefect.testing.utilities import prefect_test_harness

    with prefect_test_harness(server_startup_timeout=280):
        yield PREFECT_API_URL.value()
    assert not EventsWorker._instances, "a thread of Prefect lives on; see above"
