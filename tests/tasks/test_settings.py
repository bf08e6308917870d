import ast
import dataclasses
import re
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from qlass.errors import SettingsError
from tasks.project import dvcfiles, settings, strict

REPOSITORY = Path(__file__).parents[2]
MISSING = object()
FILES = [REPOSITORY / "params.yaml", *sorted((REPOSITORY / "presets").glob("*.yaml"))]
STAGES = ("expert", "base", "sft", "explore", "label", "qnet", "evaluate", "search", "report")


def keys(value: Any, prefix: str = "") -> set[str]:
    """Return the dotted keys of nested mappings, down to `options`, which belong to the environments."""
    if not isinstance(value, dict) or prefix.endswith("options."):
        return {prefix.rstrip(".")}
    return {key for name, inner in value.items() for key in keys(inner, f"{prefix}{name}.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_and_dataclasses_have_equal_keys(path: Path) -> None:
    loaded = settings.load_all(path)
    found = keys({field.name: _as_dict(getattr(loaded, field.name)) for field in dataclasses.fields(loaded)})
    assert found == keys(dvcfiles.read_yaml(path))


def _as_dict(value: Any) -> Any:
    if isinstance(value, dict):
        return {name: dataclasses.asdict(entry) for name, entry in value.items()}
    return dataclasses.asdict(value)


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("explore.width", 0, "explore.width: found 0 (a whole number); allowed: a whole number >= 1; change it"),
        ("explore.width", "two", "explore.width: found 'two' (text); allowed: a whole number >= 1"),
        ("explore.width", True, "explore.width: found True (true or false)"),
        ("explore.width", 2.0, "explore.width: found 2.0 (a number)"),
        ("explore.width", None, "explore.width: found null"),
        (
            "explore.width",
            MISSING,
            "explore.width: found nothing, the key is missing; allowed: a whole number >= 1; add",
        ),
        ("explore.breadth", 2, "explore.breadth: found an unknown key; allowed: tasks, width, depth,"),
        ("explore", 3, "explore: found 3 (a whole number); allowed: a mapping with the keys tasks, width"),
        ("explore.tasks", 0, "explore.tasks: found 0 (a whole number); allowed: a whole number >= 1 or null"),
        ("label.gamma", 1.5, "label.gamma: found 1.5 (a number); allowed: a number > 0 and <= 1"),
        ("label.gamma", float("nan"), "label.gamma: found nan"),
        ("label.gamma", float("inf"), "label.gamma: found inf"),
        ("sft.zero_stage", 4, "sft.zero_stage: found 4 (a whole number); allowed: 0 | 1 | 2 | 3"),
        ("sft.zero_stage", True, "sft.zero_stage: found True"),
        ("sft.lora", {"r": 0, "alpha": 1, "dropout": 0.0}, "sft.lora.r: found 0"),
        ("sft.lora", {"r": 8, "alpha": 1}, "sft.lora.dropout: found nothing"),
        ("sft.backend", "horovod", "sft.backend: found 'horovod' (text); allowed: deepspeed | torch"),
        ("evaluate.seeds", [], "evaluate.seeds: found [] (list); allowed: a list with at least one entry"),
        ("evaluate.seeds", [1, 1], "evaluate.seeds: found [1, 1] (list); allowed: a list that names each entry once"),
        ("evaluate.seeds", [0, -1], "evaluate.seeds[1]: found -1"),
        ("evaluate.adaptive.prior", -0.1, "evaluate.adaptive.prior: found -0.1 (a number); allowed: a number >= 0"),
        (
            "evaluate.adaptive",
            None,
            "evaluate.adaptive: found null; allowed: a mapping with the keys prior, max_redraws",
        ),
        (
            "run.searches",
            ["beam"],
            "run.searches[0]: found 'beam' (text); allowed: best_of_n | qlass | qlass_adaptive",
        ),
        ("run.envs", ["moon"], "run.envs[0]: found 'moon'; allowed: alfworld, corridor; choose one of these or add"),
        ("run.policies", ["qlass"], "run.policies[0]: found 'qlass' (text); allowed: base | sft; change it"),
        ("run.policies", "sft", "run.policies: found 'sft' (text); allowed: a list, each base | sft"),
        ("run.policies", MISSING, "run.policies: found nothing, the key is missing; allowed: a list that may be"),
        ("run.searches", ["qlass", "qlass"], "run.searches: found ['qlass', 'qlass'] (list); allowed: a list that"),
        ("envs.corridor.panel.train", 0, "envs.corridor.panel.train: found 0"),
        ("inference.slots", 0, "inference.slots: found 0 (a whole number); allowed: a whole number >= 1 or null"),
        (
            "inference.server",
            {"base_url": "x"},
            "inference.server.model: found nothing, the key is missing; allowed: text",
        ),
        (
            "inference.server",
            "vllm",
            "inference.server: found 'vllm' (text); allowed: a mapping with the keys base_url, model, api",
        ),
    ],
)
def test_a_mistake_is_named(tmp_path: Path, key: str, value: Any, message: str) -> None:
    path = changed(tmp_path, {key: value})
    with pytest.raises(SettingsError) as caught:
        settings.load_all(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


def changed(folder: Path, changes: dict[str, Any]) -> Path:
    """Write the repository's params.yaml with other values at dotted keys; return its path."""
    params = YAML().load(REPOSITORY / "params.yaml")
    for key, value in changes.items():
        *sections, name = key.split(".")
        inner = params
        for section in sections:
            inner = inner[section]
        if value is MISSING:
            del inner[name]
        else:
            inner[name] = value
    YAML().dump(params, folder / "params.yaml")
    return folder / "params.yaml"


def test_yaml_is_read_as_dvc_reads_it(tmp_path: Path) -> None:
    path = changed(tmp_path, {"label.gamma": 1, "sft.lr": 777})
    path.write_text(path.read_text().replace("lr: 777", "lr: 1e-3"))
    assert settings.load_all(path).sft.lr == 0.001
    assert isinstance(settings.load_all(path).label.gamma, float)
    path.write_text(path.read_text() + "\nlabel: {gamma: 0.9, q_type: q}\n")
    with pytest.raises(SettingsError, match=r"(?s)not YAML.*duplicate key"):
        settings.load_all(path)


def test_a_run_needs_a_method(tmp_path: Path) -> None:
    alone = settings.load_all(changed(tmp_path, {"run.policies": ["base"], "run.searches": []}))
    assert alone.run.methods == ("base",)
    with pytest.raises(SettingsError, match=r"run.policies and run.searches: found two empty lists; .*name a method"):
        settings.load_all(changed(tmp_path, {"run.policies": [], "run.searches": []}))


def test_torch_has_one_rank(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"sft.ranks: found 2; allowed: 1 with sft.backend torch"):
        settings.load_all(changed(tmp_path, {"sft.backend": "torch", "sft.ranks": 2}))


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="run from the root of the repository"):
        settings.load_all(tmp_path / "params.yaml")


def test_a_stage_reads_what_it_declares_only(tmp_path: Path) -> None:
    cell = dvcfiles.Cell("label@x", "label", {}, ("label.gamma", "envs.corridor"), (), ())
    scope = settings.load(cell, changed(tmp_path, {"label.gamma": 0.5, "base.workers": 7}))
    assert scope.label.gamma == 0.5
    assert scope.envs.corridor.max_steps > 0
    assert scope.base.workers == 7  # open to all: it changes no result
    for read in (lambda: scope.label.q_type, lambda: scope.envs.alfworld, lambda: scope.base.seed, lambda: scope.sft):
        with pytest.raises(SettingsError, match=r"stage label@x reads .*, but declares only label.gamma"):
            read()


@pytest.mark.parametrize("stage", STAGES)
def test_declared_keys_are_read_and_read_keys_are_declared(stage: str) -> None:
    cell = next(cell for cell in dvcfiles.cells(REPOSITORY) if cell.stage == stage)
    values = settings.declared(cell, REPOSITORY / "params.yaml")
    assert set(values) == set(cell.params)
    source = REPOSITORY / "tasks" / "stages" / f"{stage}.py"
    read = sections_read(source)
    if "Models.of(" in source.read_text():
        read |= sections_read(REPOSITORY / "tasks" / "playing" / "rollouts.py")
    assert read == {key.split(".")[0] for key in cell.params} | (read & {"tracking", "base"})


def sections_read(source: Path) -> set[str]:
    """Return the sections of the settings that a program names, as `settings.<section>` or `given.<section>`."""
    names = {field.name for field in dataclasses.fields(settings.Settings)}
    text = ast.unparse(ast.parse(source.read_text()))
    return set(re.findall(r"(?:settings|given)\.(\w+)", text)) & names


def test_describe_and_ranges() -> None:
    limits = strict.Range(at_least=0, below=1)
    assert [value in limits for value in (-0.1, 0, 0.5, 1, float("nan"))] == [False, True, True, False, False]
    assert str(limits) == ">= 0 and < 1"


def test_no_more_items_than_there_are() -> None:
    assert settings.first("abc", None, "sft.trajectories", "those of the expert") == "abc"
    assert settings.first("abc", 2, "sft.trajectories", "those of the expert") == "ab"
    with pytest.raises(SettingsError, match=r"sft.trajectories: found 4; allowed: 1 to 3 \(those of the expert\)"):
        settings.first("abc", 4, "sft.trajectories", "those of the expert")
