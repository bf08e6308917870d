from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from qlass.errors import DataError, SettingsError
from tasks.project import paths
from tasks.project.repetitions import projects_by_seed, projects_of_preset

Make = Callable[[str, dict[str, Any]], Path]


@pytest.fixture
def make(project: Path) -> Make:
    """Return a function that writes a params.yaml like the project's, but for some dotted keys, into a folder."""

    def write(name: str, changes: dict[str, Any]) -> Path:
        params = YAML().load(project / paths.PARAMS)
        for key, value in changes.items():
            *sections, last = key.split(".")
            inner = params
            for section in sections:
                inner = inner[section]
            inner[last] = value
        (project / name).mkdir()
        YAML().dump(params, project / name / paths.PARAMS)
        return project / name

    return write


def test_repetitions_differ_in_their_seed_and_in_what_changes_no_result(make: Make) -> None:
    other = {
        "base.seed": 7,
        "base.workers": 2,
        "run.policies": ["base", "sft"],
        "inference.cache_mb": 1,
        "report.bootstrap": 10,
        "tracking.max_traces": 0,
        "envs.alfworld.max_steps": 1,
    }
    first, second = make("a", {}), make("b", other)
    assert projects_by_seed([second, first], "corridor") == {7: second, 0: first}


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        (
            "methods.qlass.proposals",
            99,
            r"b/params.yaml: methods.qlass.proposals: found 99; allowed: \d+, as in .*a/params.yaml",
        ),
        ("envs.corridor.max_steps", 1, "envs.corridor.max_steps: found 1; allowed: 12"),
        ("base.max_length", 64, "base.max_length: found 64; allowed: 2560"),
        (
            "recipes.sft.lora",
            {"r": 4, "alpha": 8.0, "dropout": 0.0},
            r"recipes.sft.lora: found \{'r': 4.*; allowed: None",
        ),
    ],
)
def test_runs_of_another_experiment_are_refused(make: Make, key: str, value: Any, message: str) -> None:
    first, second = make("a", {}), make("b", {"base.seed": 1, key: value})
    with pytest.raises(SettingsError, match=message):
        projects_by_seed([first, second], "corridor")


def test_the_same_seed_twice_is_no_second_run(make: Make) -> None:
    first, second = make("a", {}), make("b", {})
    with pytest.raises(SettingsError, match="b/params.yaml: base.seed: found 0, as in .*a/params.yaml"):
        projects_by_seed([first, second], "corridor")


def test_a_folder_that_is_no_project_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataError, match=f"{tmp_path}/params.yaml: no such file"):
        projects_by_seed([tmp_path], "corridor")


def test_runs_of_a_preset_come_in_the_order_of_their_seeds(make: Make) -> None:
    preset = make("preset", {}) / paths.PARAMS
    first, second = (
        make("a", {"base.seed": 7, "tracking.max_traces": 0}),
        make("b", {"base.seed": 1, "base.workers": 2}),
    )
    assert list(projects_of_preset([first, second], preset).items()) == [(1, second), (7, first)]


def test_a_run_of_other_settings_than_the_preset_is_refused_with_all_that_differs(make: Make) -> None:
    preset = make("preset", {}) / paths.PARAMS
    other = make("a", {"base.seed": 1, "report.bootstrap": 10, "envs.alfworld.max_steps": 1})
    message = (
        r"a/params.yaml: not the settings of .*preset/params.yaml: envs.alfworld.max_steps is 1 instead of \d+; "
        r"report.bootstrap is 10 instead of 500; allowed: those of the preset but for base.seed, base.workers"
    )
    with pytest.raises(SettingsError, match=message):
        projects_of_preset([other], preset)
