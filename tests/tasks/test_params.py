"""Every setting has a meaning and, where it has a dimension, a unit; all are printed as they stand in params.yaml."""

import os
import pty
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from qlass.errors import SettingsError
from qlass.methods.base import get_method, method_names
from qlass.recipes.recipe import get_recipe, recipe_names
from qlass.recipes.sft import SftRecipe
from qlass.settings import Section
from tasks import params
from tasks.project import dvcfiles, settings

REPOSITORY = Path(__file__).parents[2]
PARAMS = REPOSITORY / "params.yaml"
PAGE = REPOSITORY / "docs" / "settings.md"
UNITS = {"_s": "seconds", "_mb": "MiB"}
COUNT_NOTHING = ("seed", "seeds", "zero_stage")
"""Whole numbers that are names."""


def groups_of(path: Path) -> list[params.Group]:
    """Return all groups of a file."""
    found = settings.load_all(path)
    return params.groups(type(found), found.model_dump(mode="json"))


def every_group() -> list[params.Group]:
    """Return the groups of the repository's file, and of the recipes and methods that it does not name."""
    found = {group.key: group for group in groups_of(PARAMS)}
    others = {f"recipes.{name}": get_recipe(name).settings for name in recipe_names()}
    others |= {f"methods.{name}": get_method(name).settings for name in method_names()}
    found |= {key: params.groups(section, {}, key)[0] for key, section in others.items() if key not in found}
    return list(found.values())


def at(values: Any, key: str) -> Any:
    """Return the value at a dotted key."""
    for name in key.split("."):
        values = values[name]
    return values


def run(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the program with its output in a pipe."""
    command = [sys.executable, "-m", "tasks.params", *arguments]
    return subprocess.run(command, cwd=REPOSITORY, capture_output=True, text=True, check=False)


@pytest.mark.parametrize("group", every_group(), ids=lambda group: group.key)
def test_everything_has_a_meaning(group: params.Group) -> None:
    for key, meaning in [(group.key, group.meaning), *((one.key, one.meaning) for one in group.settings)]:
        assert re.fullmatch(r"[A-Z`].*\.", meaning), f"{key}: a capital letter or `code` first, a full stop at the end"


@pytest.mark.parametrize("group", every_group(), ids=lambda group: group.key)
def test_what_can_be_counted_or_measured_has_a_unit(group: params.Group) -> None:
    for setting in group.settings:
        name = setting.key.rpartition(".")[2]
        if "a whole number" in setting.allowed and name not in COUNT_NOTHING:
            assert setting.unit, f"{setting.key}: a whole number counts something; give its type a unit"
        for suffix, unit in UNITS.items():
            assert not name.endswith(suffix) or setting.unit == unit, f"{setting.key}: is in {unit}"


@pytest.mark.parametrize(
    "path", [PARAMS, *sorted((REPOSITORY / "presets").glob("*.yaml"))], ids=lambda path: path.name
)
def test_values_are_those_of_the_file(path: Path) -> None:
    values = dvcfiles.read_yaml(path)
    with_value = [setting for group in groups_of(path) for setting in group.settings if setting.value]
    assert {setting.key.split(".")[0] for setting in with_value} == values.keys()
    for setting in with_value:
        assert YAML(typ="safe").load(setting.value) == at(values, setting.key), setting.key


def test_what_has_no_meaning_is_shown_without() -> None:
    class Bare(Section):
        count: int

    group = params.Group("bare", "", (params.Setting("bare.count", "2", "", "a whole number", ""),))
    assert params.groups(Bare, {"count": 2}, "bare") == [group]


def test_the_keys_of_a_mapping_follow_it() -> None:
    def lora(value: object) -> list[tuple[str, str]]:
        (group,) = params.groups(SftRecipe, {"lora": value}, "recipes.sft")
        return [(one.key, one.value) for one in group.settings if ".lora" in one.key]

    keys = ["recipes.sft.lora", "recipes.sft.lora.r", "recipes.sft.lora.alpha", "recipes.sft.lora.dropout"]
    assert lora(None) == list(zip(keys, ["null", "", "", ""], strict=True))
    given = {"r": 8, "alpha": 16.0, "dropout": 0.0}
    assert lora(given) == list(zip(keys, ["", "8", "16.0", "0.0"], strict=True))


def test_examples_of_overrides_are_settings(tmp_path: Path) -> None:
    values = YAML().load(PARAMS)
    for name, field in settings.Overrides.model_fields.items():
        example = re.search(r"`(\{.*\})`", str(field.description))
        assert example, name
        values["envs"]["corridor"]["overrides"][name] = YAML().load(example[1])
    YAML().dump(values, tmp_path / "params.yaml")
    settings.load_all(tmp_path / "params.yaml")


@pytest.mark.parametrize(
    ("key", "keys"),
    [
        ("explore.width", ["explore.width"]),
        ("label", ["label.gamma", "label.q_type"]),
        ("recipes.base", []),
        ("recipes.sft.lora.r", ["recipes.sft.lora.r"]),
        ("report", ["report.bootstrap", "report.confidence"]),
    ],
)
def test_a_section_or_a_setting_is_chosen(key: str, keys: list[str]) -> None:
    (group,) = params.chosen(groups_of(PARAMS), key)
    assert [setting.key for setting in group.settings] == keys


def test_a_section_of_sections_is_all_of_them() -> None:
    found = [group.key for group in params.chosen(groups_of(PARAMS), "envs")]
    assert found == [group.key for group in groups_of(PARAMS) if group.key.startswith("envs.")]
    assert found[:4] == ["envs.alfworld", "envs.webshop", "envs.sciworld", "envs.corridor"]
    assert params.chosen(groups_of(PARAMS), "") == groups_of(PARAMS)


@pytest.mark.parametrize(
    ("key", "allowed"),
    [
        ("explor", "run, base, inference, envs, expert, recipes, explore, label"),
        ("label.gama", "label.gamma, label.q_type;"),
        ("recipes.rlhf.lr", "recipes.base, recipes.sft"),
        ("label.gamma.x", "label.gamma;"),
    ],
)
def test_a_mistaken_key_is_told_what_there_is(key: str, allowed: str) -> None:
    with pytest.raises(SettingsError, match=re.escape(f"params: found '{key}'; allowed: {allowed}")):
        params.chosen(groups_of(PARAMS), key)


def test_a_mistake_ends_the_program_without_a_traceback() -> None:
    done = run("explor")
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)


@pytest.mark.parametrize("width", params.COLUMNS)
def test_text_fits_a_terminal(width: int) -> None:
    lines = params.as_text(groups_of(PARAMS), width).splitlines()
    assert max(map(len, lines)) <= width
    assert "  gamma: 0.9                        a number > 0 and <= 1" in lines


def test_a_terminal_gets_text_and_a_pipe_gets_fields() -> None:
    ours, theirs = pty.openpty()
    subprocess.run([sys.executable, "-m", "tasks.params", "label.gamma"], cwd=REPOSITORY, stdout=theirs, check=True)
    os.close(theirs)
    shown = os.read(ours, 10_000).decode().splitlines()
    os.close(ours)
    assert shown[0] == "label"
    names, row = (line.split("\t") for line in run("label.gamma").stdout.splitlines())
    assert names == ["key", "value", "unit", "allowed", "meaning"]
    assert row[:4] == ["label.gamma", "0.9", "", "a number > 0 and <= 1"]


def test_the_page_is_what_the_program_prints() -> None:
    assert PAGE.read_text(encoding="utf-8") == run("--markdown").stdout, (
        "run `python -m tasks.params --markdown > docs/settings.md`"
    )


def test_cells_of_a_table_keep_their_bars() -> None:
    group = params.Group("a", "B.", (params.Setting("a.b", "x|y", "", "one of x|y, z", "Both."),))
    assert r"| `b` | `x\|y` |  | one of x\|y, z | Both. |" in params.as_markdown([group]).splitlines()
