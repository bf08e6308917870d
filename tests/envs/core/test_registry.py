"""Environments by name: built-in ones and those of other packages."""

import subprocess
import sys

import pytest

from qlass.envs import available, get_definition, make_env
from qlass.envs.core.time_limit import TimeLimit
from qlass.errors import EnvironmentFault, SettingsError


def install(folder, points, code=""):
    """Put a package with entry points into a folder, as pip would."""
    (folder / "maze.py").write_text(code)
    info = folder / "maze-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: maze\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(f"[qlass.envs]\n{points}\n")


@pytest.fixture
def site(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(tmp_path)
    yield tmp_path
    sys.modules.pop("maze", None)


MAZE = """
from dataclasses import replace
from qlass.envs.corridor import DEFINITION as corridor
DEFINITION = replace(corridor, name="maze")
"""


def test_built_in():
    assert {"alfworld", "corridor"} <= available().keys()
    assert get_definition("corridor").name == "corridor"


def test_looking_up_one_does_not_import_the_others():
    code = (
        "import sys; from qlass.envs import get_definition; get_definition('corridor');"
        "assert not {'qlass.envs.alfworld', 'torch', 'transformers', 'textworld'} & sys.modules.keys()"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_an_unknown_name():
    with pytest.raises(SettingsError, match=r"'labyrinth' is unknown; allowed: alfworld, corridor"):
        get_definition("labyrinth")


def test_a_package_adds_an_environment(site):
    install(site, "maze = maze:DEFINITION", MAZE)
    assert get_definition("maze").name == "maze"
    assert get_definition("corridor").name == "corridor"


def test_a_package_must_not_take_a_name_of_ours(site):
    install(site, "corridor = maze:DEFINITION", MAZE)
    with pytest.raises(
        SettingsError, match=r"'corridor' is offered twice: qlass\.envs\.corridor:DEFINITION and maze:"
    ):
        get_definition("corridor")


@pytest.mark.parametrize(
    ("point", "code", "message"),
    [
        ("maze = maze:DEFINITION", "import nothing_of_this_name", "cannot be imported: No module named"),
        ("maze = maze:DEFINITION", "", "cannot be imported: module 'maze' has no attribute"),
        ("maze = maze:DEFINITION", "DEFINITION = 1", "is not an EnvDefinition of that name"),
        ("labyrinth = maze:DEFINITION", MAZE, "is not an EnvDefinition of that name"),
    ],
)
def test_a_broken_entry_point(site, point, code, message):
    install(site, point, code)
    with pytest.raises(EnvironmentFault, match=message):
        get_definition(point.split()[0])


def test_make_env_sets_the_limit():
    definition = get_definition("corridor")
    options = {"length": 5, "rooms": 3}
    env = make_env(definition, options, 1)
    assert isinstance(env, TimeLimit)
    env.reset(next(definition.panels(options, "train", 0)))
    assert env.step("nothing")[3]
    env.close()


@pytest.mark.parametrize("name", ["alfworld", "corridor"])
def test_an_instruction_is_a_file_of_its_environment(name: str) -> None:
    text = get_definition(name).instruction
    assert text
    assert text == text.strip()
