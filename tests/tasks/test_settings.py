from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from ruamel.yaml import YAML

from qlass.envs import get_definition
from qlass.errors import SettingsError
from tasks.project import dvcfiles, settings

REPOSITORY = Path(__file__).parents[2]
MISSING = object()
FILES = [REPOSITORY / "params.yaml", *sorted((REPOSITORY / "presets").glob("*.yaml"))]


def keys(value: Any, prefix: str = "") -> set[str]:
    """Return the dotted keys of nested mappings, down to `options`, which belong to the environments."""
    if not isinstance(value, dict) or not value or prefix.endswith("options."):
        return {prefix.rstrip(".")}
    return {key for name, inner in value.items() for key in keys(inner, f"{prefix}{name}.")}


@pytest.mark.parametrize("path", FILES, ids=lambda path: path.name)
def test_files_and_declarations_have_equal_keys(path: Path) -> None:
    assert keys(settings.load_all(path).model_dump()) == keys(dvcfiles.read_yaml(path))


@pytest.mark.parametrize(
    ("key", "value", "message"),
    [
        ("explore.width", 0, "explore.width: found 0; allowed: a whole number >= 1; change it"),
        ("explore.width", "two", "explore.width: found 'two' (text); allowed: a whole number >= 1"),
        ("explore.width", True, "explore.width: found true"),
        ("explore.width", 2.0, "explore.width: found 2.0; allowed: a whole number"),
        ("explore.width", None, "explore.width: found null"),
        (
            "explore.width",
            MISSING,
            "explore.width: found nothing, the key is missing; allowed: a whole number >= 1; add",
        ),
        ("explore.breadth", 2, "explore.breadth: found an unknown key; allowed: one of width, depth,"),
        ("explore", 3, "explore: found 3; allowed: a mapping with the keys width, depth"),
        ("explore.tasks", 0, "explore.tasks: found 0; allowed: a whole number >= 1 or null"),
        ("label.gamma", 1.5, "label.gamma: found 1.5; allowed: a number > 0 and <= 1"),
        ("label.gamma", float("nan"), "label.gamma: found nan"),
        ("label.gamma", float("inf"), "label.gamma: found inf"),
        ("recipes.sft.zero_stage", 4, "recipes.sft.zero_stage: found 4; allowed: a whole number >= 0 and <= 3"),
        ("recipes.sft.zero_stage", True, "recipes.sft.zero_stage: found true"),
        ("recipes.sft.lora", {"r": 0, "alpha": 1, "dropout": 0.0}, "recipes.sft.lora.r: found 0"),
        ("recipes.sft.lora", {"r": 8, "alpha": 1}, "recipes.sft.lora.dropout: found nothing"),
        (
            "recipes.sft.backend",
            "horovod",
            "recipes.sft.backend: found 'horovod' (text); allowed: one of deepspeed, torch",
        ),
        ("methods.qlass.seeds", [], "methods.qlass.seeds: found []; allowed: a list with at least one entry"),
        (
            "methods.qlass.seeds",
            [1, 1],
            "methods.qlass.seeds: found [1, 1]; allowed: a list that names each entry once",
        ),
        ("methods.qlass.seeds", [0, -1], "methods.qlass.seeds[1]: found -1"),
        ("methods.qlass_adaptive.prior", -0.1, "methods.qlass_adaptive.prior: found -0.1; allowed: a number >= 0"),
        (
            "methods.qlass",
            None,
            "methods.qlass: found null; allowed: a mapping with the keys seeds, temperature, proposals",
        ),
        ("methods.beam", {}, "methods.beam: 'beam' is no file of qlass/methods/; allowed: best_of_n,"),
        ("recipes.rlhf", {}, "recipes.rlhf: 'rlhf' is no file of qlass/recipes/; allowed: base, sft"),
        (
            "run.searches",
            ["beam"],
            "run.searches[0]: found 'beam'; allowed: greedy, best_of_n, qlass, qlass_adaptive",
        ),
        ("run.envs", ["moon"], "run.envs[0]: found 'moon'; allowed: alfworld, webshop, sciworld, corridor"),
        (
            "run.policies",
            ["qlass"],
            "run.policies[0]: found 'qlass'; allowed: base, sft",
        ),
        (
            "run.policies",
            "sft",
            "run.policies: found 'sft' (text); allowed: a list with at least one entry, each text",
        ),
        ("run.policies", MISSING, "run.policies: found nothing, the key is missing; allowed: a list with at least"),
        ("run.policies", ["base"], "run.policies: found ['base']; allowed: a list with sft, from which"),
        (
            "run.policies",
            ["sft", "sft"],
            "run.policies: found ['sft', 'sft']; allowed: a list that names each entry once",
        ),
        (
            "envs.alfworld.panel",
            {"train": 1},
            "envs.alfworld.panel: found ['train']; allowed: the keys train, dev, test_",
        ),
        (
            "envs.corridor.overrides.explore",
            {"depht": 6},
            "envs.corridor.overrides.explore.depht: found an unknown key;",
        ),
        (
            "envs.corridor.overrides.explore",
            {"depth": -1},
            "envs.corridor.overrides.explore.depth: found -1; allowed: a",
        ),
        (
            "envs.corridor.overrides.base",
            {"seed": 1},
            "envs.corridor.overrides.base: found an unknown key; allowed: one of",
        ),
        (
            "envs.corridor.overrides.recipes",
            {"sft": {"lr": 0}},
            "envs.corridor.overrides.recipes.sft.lr: found 0; allowed: a number > 0; change it",
        ),
        ("envs.corridor.panel.train", 0, "envs.corridor.panel.train: found 0"),
        ("inference.slots", 0, "inference.slots: found 0; allowed: a whole number >= 1 or null"),
        (
            "inference.server",
            {"base_url": "http://x"},
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
    path = changed(tmp_path, {"run.envs": ["alfworld"], key: value})
    with pytest.raises(SettingsError) as caught:
        settings.load_all(path)
    assert str(caught.value).startswith(f"{path}: ")
    assert message in str(caught.value)


SERVER: dict[str, Any] = {
    "base_url": "http://127.0.0.1:8000/v1",
    "model": "sft",
    "api": "completions",
    "api_key_env": "",
    "concurrency": 4,
    "timeout_s": 60.0,
    "retries": 3,
    "request_per_seed": True,
    "logprobs": True,
    "version": "1",
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (
            {"base.max_new_tokens": 2560},
            "base.max_new_tokens: found 2560; allowed: 1 to 2559, below base.max_length, which holds the history",
        ),
        (
            {"inference.server": SERVER, "explore.candidates": "admissible"},
            "explore.candidates: found admissible on corridor; allowed: generate, because a server",
        ),
        (
            {"inference.server": SERVER, "envs.corridor.overrides.evaluate": {"candidates": "admissible"}},
            "evaluate.candidates: found admissible on corridor; allowed: generate, because a server",
        ),
        (
            {"explore.tasks": 25},
            "explore.tasks on corridor: found 25; allowed: 1 to 24 (the tasks of envs.corridor.panel.train), or null",
        ),
        (
            {"recipes.sft.trajectories": 300},
            "recipes.sft.trajectories on corridor: found 300; allowed: 1 to 24 (the tasks of envs.corridor.panel.train)",
        ),
        (
            {"recipes.sft.trajectories": 13, "recipes.sft.share": 0.5},
            "recipes.sft.trajectories on corridor: found 13; allowed: 1 to 12 (the tasks of envs.corridor.panel.train, a "
            "share of 0.5)",
        ),
        ({"recipes.sft.share": 0.0}, "recipes.sft.share: found 0.0; allowed: a number > 0 and <= 1"),
        ({"explore.tasks": 1}, "explore.tasks: found 1; allowed: 2 or more, because the QNet learns from some"),
        ({"envs.corridor.panel.train": 1}, "envs.corridor.panel.train: found 1; allowed: 2 or more"),
        (
            {"explore.tasks": 10, "qnet.validation_fraction": 0.25, "qnet.tasks": 8},
            "qnet.tasks on corridor: found 8; allowed: 1 to 7 (explored tasks that are not kept for validation), or null",
        ),
    ],
)
def test_settings_that_cannot_end_well_together(tmp_path: Path, changes: dict[str, Any], message: str) -> None:
    """Known before anything runs; a stage said it after hours of training or exploration."""
    path = changed(tmp_path, {"run.envs": ["corridor"], "recipes.sft.trajectories": None, **changes})
    with pytest.raises(SettingsError) as caught:
        settings.load_all(path)
    assert str(caught.value).startswith(f"{path}: {message}")


def test_environments_that_do_not_run_may_ask_for_anything(tmp_path: Path) -> None:
    """The file keeps sections of environments that run another time."""
    given = settings.load_all(changed(tmp_path, {"run.envs": ["alfworld"], "recipes.sft.trajectories": 300}))
    assert given.envs["corridor"].panel["train"] == 24


def test_splits_that_an_environment_lacks(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = changed(tmp_path, {"run.envs": ["corridor"], "recipes.sft.trajectories": None, "evaluate.splits": "dev"})
    values = dvcfiles.read_yaml(path)
    del values["envs"]["corridor"]["panel"]["dev"]
    YAML().dump(values, path)
    definition = replace(get_definition("corridor"), splits=("train", "test_seen", "test_unseen"))
    monkeypatch.setattr(settings, "get_definition", lambda name: definition)
    with pytest.raises(
        SettingsError, match=r"evaluate.splits: found dev; allowed: .* a split of corridor \(train, test_"
    ):
        settings.load_all(path)


@pytest.mark.parametrize(
    ("server", "searches", "expected"),
    [(None, [], True), (SERVER, ["greedy", "qlass"], True), (SERVER, ["greedy"], False), (SERVER, [], False)],
)
def test_who_runs_models(tmp_path: Path, server: Any, searches: list[str], expected: bool) -> None:
    given = settings.load_all(changed(tmp_path, {"inference.server": server, "run.searches": searches}))
    assert settings.runs_models(given) == expected


SERVED = {
    "base_url": "http://x/v1", "model": "m", "api": "chat", "api_key_env": "", "concurrency": 1, "timeout_s": 1.0, "retries": 0,
    "request_per_seed": True, "logprobs": False, "version": "1",
}  # fmt: skip


def test_a_method_that_needs_log_probabilities_is_not_begun_without_them(tmp_path: Path) -> None:
    """`qlass_adaptive` would play without its prior and say that it has one."""
    wanted = {
        "run.envs": ["corridor"],
        "recipes.sft.trajectories": None,
        "run.searches": ["best_of_n", "qlass_adaptive"],
        "inference.server": SERVED,
    }
    path = changed(tmp_path, wanted | {"methods.qlass_adaptive.prior": 0.5})
    message = (
        r"methods.qlass_adaptive.prior: found 0.5 for corridor, which needs log probabilities, but "
        r"inference.server.logprobs is false; allowed: 0 without them; set it to 0"
    )
    with pytest.raises(SettingsError, match=message):
        settings.load_all(path)
    for other in (
        {"methods.qlass_adaptive.prior": 0.0},
        {"envs.corridor.overrides.methods": {"qlass_adaptive": {"prior": 0.0}}},
        {"inference.server": SERVED | {"logprobs": True}},
        {"inference.server": None},
        {"run.searches": ["qlass", "best_of_n"]},
    ):
        settings.load_all(changed(tmp_path, wanted | {"methods.qlass_adaptive.prior": 0.5} | other))
    other = {
        "methods.qlass_adaptive.prior": 0.0,
        "envs.corridor.overrides.methods": {"qlass_adaptive": {"prior": 0.5}},
    }
    with pytest.raises(SettingsError, match=message):
        settings.load_all(changed(tmp_path, wanted | other))


def test_a_method_that_rewords_tasks_is_not_begun_where_it_finds_none(tmp_path: Path) -> None:
    wanted = {
        "run.envs": ["webshop", "corridor"],
        "envs.corridor.overrides.recipes": {"sft": {"trajectories": None}},
        "run.searches": ["qlass", "qlass_perturbed"],
    }
    message = (
        r"run.searches\[1\]: found qlass_perturbed, which says the task in other words, but corridor does not say where the "
        r"task stands in an observation \(EnvDefinition.partition_task\); take qlass_perturbed out of run.searches, or corridor"
    )
    with pytest.raises(SettingsError, match=message):
        settings.load_all(changed(tmp_path, wanted))
    for other in ({"run.envs": ["webshop"]}, {"run.searches": ["qlass"]}):
        settings.load_all(changed(tmp_path, wanted | other))


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ("rules", "found 'rules' (text); allowed: a mapping with the keys base_url, model, api_key_env"),
        (
            {"base_url": "ftp://x"},
            ".base_url: found 'ftp://x' (text); allowed: an address that starts with http:// or",
        ),
        ({"base_url": "http://x/v1"}, ".model: found nothing, the key is missing; allowed: text"),
    ],
)
def test_a_paraphraser_is_a_complete_endpoint(tmp_path: Path, value: Any, message: str) -> None:
    path = changed(tmp_path, {"run.envs": ["alfworld"], "methods.qlass_perturbed.paraphraser": value})
    with pytest.raises(SettingsError) as caught:
        settings.load_all(path)
    assert f"methods.qlass_perturbed.paraphraser{'' if isinstance(value, dict) else ': '}{message}" in str(
        caught.value
    )


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
    path = changed(tmp_path, {"label.gamma": 1, "recipes.sft.lr": 777})
    path.write_text(path.read_text().replace("lr: 777", "lr: 1e-3"))
    assert settings.load_all(path).recipes["sft"].lr == 0.001  # type: ignore[attr-defined]
    assert isinstance(settings.load_all(path).label.gamma, float)
    path.write_text(path.read_text() + "\nlabel: {gamma: 0.9, q_type: q}\n")
    with pytest.raises(SettingsError, match=r"(?s)not YAML.*duplicate key"):
        settings.load_all(path)


def test_torch_has_one_rank(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match=r"recipes.sft.ranks: found 2; allowed: 1 with backend torch"):
        settings.load_all(changed(tmp_path, {"recipes.sft.backend": "torch", "recipes.sft.ranks": 2}))


def test_a_name_cannot_be_a_policy_and_a_search(tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    values = dvcfiles.read_yaml(changed(tmp_path, {}))
    values["methods"]["sft"] = values["methods"].pop("greedy")
    with pytest.raises(SettingsError, match=r"methods.sft: 'sft' is no file of qlass/methods/"):
        settings.load_all(changed(tmp_path / "other", {"methods": values["methods"]}))


def test_overrides_hold_on_their_environment_only(tmp_path: Path) -> None:
    changes = {
        "run.envs": ["alfworld", "corridor"],
        "envs.corridor.overrides.explore": {"depth": 3, "rollout_temperature": None},
        "envs.corridor.overrides.recipes": {
            "sft": {"lora": {"r": 4, "alpha": 8.0, "dropout": 0.0}, "trajectories": None}
        },
        "envs.corridor.overrides.methods": {"qlass": {"proposals": 7}},
    }
    given = settings.load_all(changed(tmp_path, changes))
    here, there = given.on("corridor"), given.on("alfworld")
    assert (here.explore.depth, here.explore.rollout_temperature, here.explore.width) == (3, None, given.explore.width)
    assert here.methods["qlass"] == given.methods["qlass"].model_copy(update={"proposals": 7})
    assert here.recipes["sft"].model_dump()["lora"] == {"r": 4, "alpha": 8.0, "dropout": 0.0}
    assert there == given


def test_a_stage_sees_the_overrides_of_its_environment(tmp_path: Path) -> None:
    path = changed(tmp_path, {"envs.corridor.overrides.explore": {"depth": 3}})
    params = ("explore", "envs.corridor.overrides.explore", "envs.corridor.max_steps")
    cell = dvcfiles.Cell("explore@corridor", "explore", {"env": "corridor"}, params, (), ())
    assert settings.load(cell, path).explore.depth == 3
    values = settings.declared(cell, path)
    assert values.keys() == {"explore", "envs.corridor.max_steps"}
    assert values["explore"]["depth"] == 3


def test_a_missing_file_says_where_to_run(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="run from the root of the repository"):
        settings.load_all(tmp_path / "params.yaml")


def test_a_stage_reads_what_it_declares_only(tmp_path: Path) -> None:
    cell = dvcfiles.Cell("label@x", "label", {}, ("label.gamma", "envs.corridor.max_steps"), (), ())
    scope = settings.load(cell, changed(tmp_path, {"label.gamma": 0.5, "base.workers": 7}))
    assert scope.label.gamma == 0.5
    assert scope.envs["corridor"].max_steps > 0
    assert scope.base.workers == 7  # open to all: it changes no result
    for read in (
        lambda: scope.label.q_type,
        lambda: scope.envs["alfworld"],
        lambda: scope.base.seed,
        lambda: scope.recipes["sft"],
    ):
        with pytest.raises(SettingsError, match=r"stage label@x reads .*, but declares only label.gamma"):
            read()
