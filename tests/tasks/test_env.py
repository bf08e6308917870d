"""What stage `env` writes: all that can change how an environment plays, and that DVC cannot see."""

import os
import subprocess
import sys
from importlib.metadata import version
from pathlib import Path
from typing import Any

import pytest

from qlass.jsonl import read_json
from tasks.project import paths
from tests.tasks.conftest import clean_environment

MAZE = """
from dataclasses import replace
from qlass.envs.corridor import DEFINITION as corridor
DEFINITION = replace(corridor, name="maze", packages=("dvc", "nowhere-to-be-found"))
"""
STUB = """
import sys
from tasks.stages import env
env.version = {versions}.get
raise SystemExit(env.main())
"""


@pytest.fixture
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return a folder of installed packages, one of which offers the environment `maze`."""
    site = tmp_path_factory.mktemp("site")
    info = site / "mazes.dist-info"
    for file, text in {
        info / "METADATA": "Metadata-Version: 2.1\nName: mazes\nVersion: 1.0\n",
        info / "entry_points.txt": "[qlass.envs]\nmaze = mazes.easy.maze:DEFINITION\n",
        site / "mazes" / "__init__.py": "",
        site / "mazes" / "walls.py": "",
        site / "mazes" / "easy" / "__init__.py": "",
        site / "mazes" / "easy" / "maze.py": MAZE,
    }.items():
        file.parent.mkdir(parents=True, exist_ok=True)
        file.write_text(text)
    return site


def written(project: Path, name: str, site: Path = Path(), how: tuple[str, ...] = ("-m", "tasks.stages.env")) -> Any:
    """Run the stage program in the project; return what it wrote."""
    variables = clean_environment() | {"PYTHONPATH": os.pathsep.join([str(project), str(site)])}
    subprocess.run([sys.executable, *how, name], cwd=project, env=variables, check=True)
    return read_json(project / paths.installed(name))


def test_a_package_is_its_version_and_its_code(project: Path, site: Path) -> None:
    first = written(project, "maze", site)
    assert first.keys() == {"packages", "code"}
    assert first["packages"] == {"dvc": version("dvc"), "mazes": "1.0", "nowhere-to-be-found": None}
    os.utime(site / "mazes" / "walls.py", (0, 0))
    assert written(project, "maze", site) == first
    # The code is that of the whole package: the environment's module may import the others.
    (site / "mazes" / "walls.py").write_text("HEIGHT = 2\n")
    second = written(project, "maze", site)
    assert second["packages"] == first["packages"]
    assert second["code"] != first["code"]
    metadata = site / "mazes.dist-info" / "METADATA"
    metadata.write_text(metadata.read_text().replace("1.0", "1.1"))
    packages = {**first["packages"], "mazes": "1.1"}
    assert written(project, "maze", site) == {"packages": packages, "code": second["code"]}


def test_what_else_is_in_a_namespace_package_is_not_the_environment(project: Path, site: Path) -> None:
    (site / "mazes" / "__init__.py").unlink()
    first = written(project, "maze", site)
    (site / "mazes" / "walls.py").write_text("HEIGHT = 2\n")
    assert written(project, "maze", site) == first
    (site / "mazes" / "easy" / "__init__.py").write_text("EASY = True\n")
    assert written(project, "maze", site)["code"] != first["code"]


def test_alfworld_is_the_versions_of_its_packages(project: Path) -> None:
    """Its own code lies in the project, where DVC sees it."""
    versions = {"alfworld": "0.4.2", "fast-downward-textworld": "20.6.4", "textworld": "1.7.0"}
    for found in (versions, {**versions, "textworld": "1.8.0"}):
        how = ("-c", STUB.format(versions=found))
        assert written(project, "alfworld", how=how) == {"packages": found}


def test_an_unknown_environment_is_named(project: Path) -> None:
    command = [sys.executable, "-m", "tasks.stages.env", "labyrinth"]
    variables = clean_environment() | {"PYTHONPATH": str(project)}
    done = subprocess.run(command, cwd=project, env=variables, capture_output=True, text=True, check=False)
    assert done.returncode != 0
    assert "environment 'labyrinth' is unknown; allowed: alfworld, corridor" in done.stderr
    assert not paths.installed("labyrinth").parent.exists()
