import logging
import re
import shutil
import sqlite3
from collections.abc import Callable
from contextlib import closing
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from qlass.envs import get_definition
from qlass.envs.core.panels import Panel, build_panel, save_panel
from qlass.errors import DataError, StorageError
from qlass.evaluation import summarise
from qlass.jsonl import read_json, write_json, write_records
from qlass.models.folders import load_model
from qlass.models.qnet import QNet, save_qnet
from qlass.records import Cost, Episode, Step
from tasks import register
from tasks.evaluate_champion import evaluate_champion
from tasks.experiments import card, contest, registry, tracking
from tasks.playing import dev
from tasks.playing.dev import Dev
from tasks.project import paths, settings
from tests.tasks.conftest import NO_OVERRIDES

ENV = "corridor"
SPLITS = ("test_seen", "test_unseen")
POLICY = paths.policy(ENV, settings.SFT)
EASY = {
    "envs.corridor": {
        "max_steps": 8,
        "panel": {"train": 24, "dev": 16, "test_seen": 16, "test_unseen": 16},
        "options": {"length": 3, "rooms": 2},
        "overrides": NO_OVERRIDES,
    },
    "evaluate.candidates": "admissible",
    "methods.qlass.proposals": 4,
    "evaluate.shard_size": 8,
}
"""Two rooms, and actions that the environment offers: a random model solves a game now and then."""

Params = Callable[[dict[str, Any]], None]


def finished(project: Path, name: str, solved: int = 4, seed: int = 0) -> None:
    """Write what a finished pipeline run leaves: models, panels, episodes with `solved` successes per split, dvc.lock."""
    for folder, content in ((POLICY, "policy"), (paths.qnet(ENV), "qnet")):
        (project / folder).mkdir(parents=True, exist_ok=True)
        (project / folder / "model.safetensors").write_text(f"{content} {name}")
    outs = [f"{{path: {POLICY}, md5: {name}.dir}}", f"{{path: {paths.qnet(ENV)}, md5: {name}q.dir}}"]
    options = settings.load_all().envs[ENV].options
    metrics = {}
    for split in ("dev", *SPLITS):
        panel = build_panel(get_definition(ENV), options, split, 16, seed)
        save_panel(project / paths.panel(ENV, split), panel)
        if split == "dev":
            continue
        episodes = [played(panel, number, number < solved) for number in range(16)]
        write_records(project / paths.episodes(ENV, "qlass", split), episodes, Episode)
        metrics[split] = summarise(episodes)
    write_json(project / paths.metrics("evaluate", ENV, "qlass"), metrics)
    outs.append(f"{{path: {paths.episodes(ENV, 'qlass', '').parent}, md5: {name}episodes.dir}}")
    (project / "dvc.lock").write_text(f"schema: '2.0'\nstages: {{all: {{cmd: x, outs: [{', '.join(outs)}]}}}}\n")


def played(panel: Panel, number: int, success: bool) -> Episode:
    task = panel.tasks[number]
    step = Step("", "enter", "a room", float(success), True, False)
    return Episode(task.task_id, task.category, "qlass", 0, float(success), success, "start", (step,), Cost())


def registered(project: Path) -> registry.Version:
    return register.register(ENV, settings.load_all(), project)


def edit(path: Path) -> None:
    with path.open("a") as file:
        file.write("# another rule\n")


def models(project: Path) -> registry.Registry:
    return registry.Registry(f"qlass-{ENV}", "qlass", project)


def dev_of(project: Path) -> Dev:
    found = Dev.of(ENV, settings.load_all(), project)
    assert found is not None
    return found


def reason(project: Path, version: str) -> str:
    return str(tracking.connect(project).get_model_version(f"qlass-{ENV}", version).tags["comparison"])


def all_alike(project: Path, success: float) -> dict[str, Any]:
    """Return what would have been measured of a model that does equally well on every dev task."""
    dev = dev_of(project)
    return {**dev.measured([]), "success": {task.task_id: success for task in dev.panel.tasks}}


@pytest.fixture
def real(project: Path, params: Params, tiny_policy: Path) -> Callable[..., None]:
    """Return a function as `finished` whose models are real, if random: QNets of other seeds choose other actions."""
    params(EASY)

    def finish(name: str, qnet_seed: int, seed: int = 0) -> None:
        finished(project, name, seed=seed)
        shutil.rmtree(project / POLICY)
        shutil.copytree(tiny_policy, project / POLICY)
        torch.manual_seed(qnet_seed)
        save_qnet(QNet(load_model(tiny_policy).base_model, width=8), project / paths.qnet(ENV), tiny_policy)

    return finish


def test_the_card_says_what_was_measured(project: Path, params: Params) -> None:
    """The environment as its options make it, its own settings of the method, and who played the policy."""
    finished(project, "a")
    plain = card.text(ENV, settings.load_all(), {}, "champion", project)
    assert "A policy and the QNet that guides it, for corridor (toy)." in plain
    assert "initialised from that policy" in plain
    assert "server" not in plain
    server = {
        "base_url": "http://127.0.0.1:9/v1", "model": "other", "api": "chat", "api_key_env": "", "concurrency": 1,
        "timeout_s": 1.0, "retries": 0, "request_per_seed": True, "logprobs": False, "version": "1",
    }  # fmt: skip
    overrides = {**NO_OVERRIDES, "methods": {"qlass": {"proposals": 7}}}
    overrides["qnet"] = {"trunk": "policy", "observation_loss": 0}
    params({f"envs.{ENV}.overrides": overrides, "inference.server": server})
    text = card.text(ENV, settings.load_all(), {}, "champion", project)
    assert "* Use: method `qlass`, M = 7," in text
    assert "a value head on that policy's trunk" in text
    assert "* Measured with a policy behind a server, its model `other`." in text


def test_the_first_version_is_champion_and_complete(project: Path) -> None:
    finished(project, "a")
    version = registered(project)
    assert (version.name, version.version, version.alias) == ("qlass-corridor", "1", "champion")
    assert models(project).champion() == version
    folder = models(project).files(version, project)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "policy/model.safetensors",
        "qnet/model.safetensors",
        "card.md",
    }
    card = (folder / "card.md").read_text()
    assert "| test_seen | 16 | 25.0 | 25.0 |" in card
    assert "* Alias: champion (first version)." in card
    assert version.tags["dvc.policy_md5"] == "a.dir"
    assert version.tags["base.source"] == "models/reader-3m"
    assert version.tags["base.chat_format"] == "qlass"
    assert models(project).success(version) is None  # it did not have to play
    assert not list((project / ".work" / "register").iterdir())


def test_the_same_models_are_registered_once(project: Path) -> None:
    finished(project, "a")
    first = registered(project)
    lock = (project / "dvc.lock").read_text()
    (project / "dvc.lock").write_text(lock.replace("md5: aepisodes", "md5: evaluated again"))
    assert registered(project) == first


@pytest.mark.parametrize(
    ("solved", "alias", "words"),
    [
        (5, "challenger", r"success on 16 dev tasks \+6\.2 against version 7, interval over tasks \+0\.0 to \+\d"),
        (4, "challenger", r"\+0\.0 against version 7"),
        (0, "challenger", r"-25\.0 against version 7, interval over tasks -\d"),
        (14, "champion", r"\+62\.5 against version 7, interval over tasks \+[1-9]"),
    ],
)
def test_a_champion_is_beaten_beyond_chance(project: Path, solved: int, alias: str, words: str) -> None:
    finished(project, "a")
    dev = dev_of(project)
    old, new = (
        dev.measured([played(dev.panel, (number * 7) % len(dev.panel.tasks), number < n) for number in range(16)])
        for n in (4, solved)
    )
    verdict = contest.compare(dev, new, old, "7")
    assert verdict.alias == alias
    assert re.search(words, verdict.reason)


@pytest.mark.slow
def test_a_new_version_plays_the_dev_panel_against_what_is_known_of_the_champion(
    project: Path, real: Callable[..., None], caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    real("a", qnet_seed=2)
    first = registered(project)
    models(project).keep_success(first, all_alike(project, 0.0))
    real("b", qnet_seed=0)
    with closing(sqlite3.connect(project / "mlflow.db")) as store:  # the last step of registering fails
        store.execute(
            "CREATE TRIGGER full BEFORE UPDATE ON registered_model_aliases BEGIN SELECT RAISE(ABORT, 'disk'); END"
        )
        with pytest.raises(StorageError, match="cannot register qlass-corridor"):
            registered(project)
        store.execute("DROP TRIGGER full")
    caplog.clear()
    second = registered(project)
    assert "progress=qlass/corridor resumed=16/16" in caplog.text  # nothing was played again
    assert second.alias == "champion"
    assert reason(project, second.version).startswith(
        "success on 16 dev tasks +25.0 against version 1, interval over tasks +"
    )
    success = models(project).success(second)
    assert success is not None
    assert set(success["success"]) == {task.task_id for task in dev_of(project).panel.tasks}
    aliases = tracking.connect(project).get_registered_model("qlass-corridor").aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": second.version}
    card = (models(project).files(second, project) / "card.md").read_text()
    assert "* Alias: champion (success on 16 dev tasks +25.0 against version 1" in card
    assert "| test_seen | 16 | 25.0 | 25.0 |" in card


@pytest.mark.slow
def test_the_champion_plays_a_panel_that_it_has_not_played(project: Path, real: Callable[..., None]) -> None:
    real("a", qnet_seed=0)
    first = registered(project)
    models(project).keep_success(first, all_alike(project, 0.5))
    real("b", qnet_seed=2, seed=1)
    second = registered(project)
    assert second.alias == "challenger"
    tasks = {task.task_id for task in dev_of(project).panel.tasks}
    old, new = models(project).success(first), models(project).success(second)
    assert old is not None
    assert new is not None
    assert set(old["success"]) == set(new["success"]) == tasks
    assert old["panel"] == new["panel"] == dev_of(project).panel.sha256
    gain = 100 * (sum(new["success"].values()) - sum(old["success"].values())) / 16
    assert gain < 0
    assert reason(project, second.version).startswith(f"success on 16 dev tasks {gain:+.1f} against version 1")


@pytest.mark.slow
def test_evaluating_the_champion_keeps_what_it_measures(project: Path, real: Callable[..., None]) -> None:
    real("a", qnet_seed=0)
    first = registered(project)
    metrics = evaluate_champion(ENV, settings.load_all(), project)
    kept = models(project).success(first)
    assert kept is not None
    assert metrics["success_rate"] == 100 * sum(kept["success"].values()) / 16
    assert kept["panel"] == dev_of(project).panel.sha256
    assert not list((project / ".work" / "evaluate_champion").iterdir())


@pytest.mark.slow
def test_a_champion_that_cannot_be_played_is_named(project: Path) -> None:
    finished(project, "a")
    registered(project)
    finished(project, "b")  # neither is a model
    with pytest.raises(DataError, match=r"qlass-corridor version 1, the champion, on .*dev.json: .*delete the alias"):
        registered(project)


def test_without_a_dev_split_nobody_is_promoted(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    finished(project, "a")
    registered(project)
    finished(project, "b", solved=16)
    monkeypatch.setattr(dev, "get_definition", lambda _: replace(get_definition(ENV), splits=("train", "test_seen")))
    version = registered(project)
    assert version.alias == "challenger"
    assert reason(project, "2") == "corridor has no split dev to choose on; move the alias champion by hand"
    with pytest.raises(DataError, match=r"panels/dev.json: no such panel; corridor has no split dev"):
        evaluate_champion(ENV, settings.load_all(), project)


def test_success_is_compared_under_equal_conditions(project: Path, params: Params) -> None:
    finished(project, "a")
    first = dev_of(project).conditions
    edit(project / "qlass" / "report" / "paper.py")  # takes no part in the result
    finished(project, "b")
    params({"base.workers": 3, "base.max_length": 100})  # the one changes no result, the other belongs to a model
    assert dev_of(project).conditions == first
    for change in (
        lambda: edit(project / "qlass" / "methods" / "qlass.py"),
        lambda: edit(project / "tasks" / "running" / "shards.py"),
        lambda: params({"methods.qlass.temperature": 0.1}),
        lambda: finished(project, "c", seed=1),
    ):
        before = dev_of(project).conditions
        change()
        assert dev_of(project).conditions != before


def test_other_code_does_not_continue_an_evaluation(project: Path) -> None:
    finished(project, "a")
    registered(project)
    shutil.rmtree(project / "mlruns")  # so that it ends before a worker is started

    def folders() -> int:
        with pytest.raises(StorageError, match="cannot read qlass-corridor"):
            evaluate_champion(ENV, settings.load_all(), project)
        return sum(path.is_dir() for path in (project / ".work" / "evaluate_champion").iterdir())

    assert (folders(), folders()) == (1, 1)
    edit(project / "qlass" / "methods" / "qlass.py")
    assert folders() == 2


def test_a_version_is_played_as_it_was_trained_and_never_by_a_server(project: Path, params: Params) -> None:
    finished(project, "a")
    tags = registered(project).tags
    server = {
        "base_url": "http://127.0.0.1:9/v1", "model": "sft", "api": "chat", "api_key_env": "", "concurrency": 1,
        "timeout_s": 1.0, "retries": 0, "request_per_seed": True, "logprobs": True, "version": "1",
    }  # fmt: skip
    params({"base.chat_format": "llama-2", "base.max_length": 100, "inference.server": server})
    models = dev_of(project).setup(project, tags).models
    assert (models.chat_format, models.max_length, models.served) == ("qlass", 2560, None)
    assert dev_of(project).setup(project, {}).models.chat_format == "llama-2"  # a version of before the tags


def test_an_upload_that_fails_leaves_no_version(project: Path) -> None:
    finished(project, "a")
    (project / "mlruns").write_text("in the way of MLflow's folder of artifacts")
    with pytest.raises(StorageError, match=r"cannot register qlass-corridor: .*run `python -m tasks.register` when"):
        registered(project)
    client = tracking.connect(project)
    experiment = client.get_experiment_by_name("qlass")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    assert run.info.status == "FAILED"
    assert not client.search_model_versions("name = 'qlass-corridor'")
    assert models(project).champion() is None
    (project / "mlruns").unlink()
    assert registered(project).alias == "champion"


@pytest.mark.parametrize("table", ["registered_model_aliases", "model_versions"])
def test_a_version_that_is_not_completed_is_withdrawn(project: Path, table: str) -> None:
    finished(project, "a")
    with closing(sqlite3.connect(project / "mlflow.db")) as store:
        store.execute(f"CREATE TRIGGER full BEFORE INSERT ON {table} BEGIN SELECT RAISE(ABORT, 'disk'); END")
        with pytest.raises(StorageError, match="cannot register qlass-corridor"):
            registered(project)
        store.execute("DROP TRIGGER full")
    client = tracking.connect(project)
    assert not client.search_model_versions("name = 'qlass-corridor'")
    version = registered(project)
    assert version.alias == "champion"
    experiment = client.get_experiment_by_name("qlass")
    assert experiment is not None
    runs = client.search_runs([experiment.experiment_id], order_by=["attributes.start_time ASC"])
    assert [run.info.status for run in runs] == ["FAILED", "FINISHED"]


def test_a_version_whose_process_was_killed_is_made_again(project: Path) -> None:
    finished(project, "a")
    first = registered(project)
    tracking.connect(project).set_terminated(first.run_id, "KILLED")
    assert models(project).find({"dvc.policy_md5": "a.dir"}) is None


def test_an_adapter_brings_the_model_that_it_adapts(project: Path) -> None:
    finished(project, "a")
    (project / paths.BASE_POLICY).mkdir(parents=True)
    (project / paths.BASE_POLICY / "model.safetensors").write_text("base")
    write_json(project / POLICY / "pointer.json", {"source": "../../../../base/policy", "revision": None})
    folder = models(project).files(registered(project), project)
    source = read_json(folder / "policy" / "pointer.json")["source"]
    assert (folder / "policy" / source / "model.safetensors").read_text() == "base"


def test_nothing_to_register_is_an_error(project: Path) -> None:
    with pytest.raises(DataError, match=r"dvc.lock: no hash of data/policy/corridor/sft/model.*run `dvc repro`"):
        registered(project)
