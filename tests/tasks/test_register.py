from pathlib import Path

import pytest

from qlass.envs import get_definition
from qlass.envs.core.panels import Panel, build_panel, save_panel
from qlass.errors import DataError
from qlass.evaluation import summarise
from qlass.jsonl import read_json, write_json, write_records
from qlass.records import Cost, Episode, Step
from tasks import register
from tasks.experiments import registry, tracking
from tasks.project import paths, settings

ENV = "corridor"
SPLITS = ("test_seen", "test_unseen")


def finished(project: Path, solved: int, name: str) -> None:
    """Write what a finished pipeline run leaves: models, panels, episodes with `solved` successes per split, dvc.lock."""
    for folder, content in ((paths.sft_policy(ENV), "policy"), (paths.qnet(ENV), "qnet")):
        (project / folder).mkdir(parents=True, exist_ok=True)
        (project / folder / "model.safetensors").write_text(f"{content} {name}")
    outs = [f"{{path: {paths.sft_policy(ENV)}, md5: {name}.dir}}", f"{{path: {paths.qnet(ENV)}, md5: {name}q.dir}}"]
    for split in SPLITS:
        panel = build_panel(get_definition(ENV), {"length": 5, "rooms": 3}, split, 16, 0)
        save_panel(project / paths.panel(ENV, split), panel)
        episodes = [played(panel, number, number < solved) for number in range(16)]
        write_records(project / paths.episodes(ENV, "qlass", split), episodes, Episode)
        write_json(project / paths.metrics("evaluate", ENV, f"qlass-{split}"), summarise(episodes))
        outs.append(f"{{path: {paths.episodes(ENV, 'qlass', split)}, md5: {name}{split}}}")
    (project / "dvc.lock").write_text(f"schema: '2.0'\nstages: {{all: {{cmd: x, outs: [{', '.join(outs)}]}}}}\n")


def played(panel: Panel, number: int, success: bool) -> Episode:
    task = panel.tasks[number]
    step = Step("", "enter", "a room", float(success), True, False)
    return Episode(task.task_id, task.category, "qlass", 0, float(success), success, "start", (step,), Cost())


def registered(project: Path) -> registry.Version:
    return register.register(ENV, settings.load_all(), project)


def test_the_first_version_is_champion_and_complete(project: Path) -> None:
    finished(project, 4, "a")
    version = registered(project)
    assert (version.name, version.version, version.alias) == ("qlass-corridor", "1", "champion")
    found = registry.Registry("qlass-corridor", "qlass", project)
    assert found.champion() == version
    folder = found.champion_files(project)
    assert {str(path.relative_to(folder)) for path in folder.rglob("*") if path.is_file()} == {
        "policy/model.safetensors",
        "qnet/model.safetensors",
        "card.md",
        "success.json",
    }
    assert "| test_seen | 16 | 25.0 | 25.0 |" in (folder / "card.md").read_text()
    assert len(read_json(folder / "success.json")["success"]) == 32
    tags = tracking.connect(project).get_model_version("qlass-corridor", "1").tags
    assert tags["dvc.policy_md5"] == "a.dir"
    assert tags["base.source"] == "models/reader-3m"


def test_the_same_outputs_are_registered_once(project: Path) -> None:
    finished(project, 4, "a")
    assert registered(project) == registered(project)


def test_a_better_version_takes_over_and_a_worse_one_does_not(project: Path) -> None:
    finished(project, 4, "a")
    registered(project)
    finished(project, 5, "b")  # better, but not more than chance explains
    second = registered(project)
    assert (second.version, second.alias) == ("2", "challenger")
    finished(project, 14, "c")
    third = registered(project)
    assert (third.version, third.alias) == ("3", "champion")
    client = tracking.connect(project)
    aliases = client.get_registered_model("qlass-corridor").aliases
    assert {alias: str(version) for alias, version in aliases.items()} == {"champion": "3", "challenger": "2"}
    comparison = client.get_model_version("qlass-corridor", "3").tags["comparison"]
    assert comparison.startswith("success +62.5 against the champion, interval over tasks +")
    finished(project, 4, "a")
    assert registered(project).version == "1"


def test_other_panels_cannot_be_compared(project: Path) -> None:
    finished(project, 4, "a")
    registered(project)
    finished(project, 16, "b")
    panel = build_panel(get_definition(ENV), {"length": 5, "rooms": 3}, "test_seen", 16, 1)
    save_panel(project / paths.panel(ENV, "test_seen"), panel)
    version = registered(project)
    assert version.alias == "challenger"
    reason = tracking.connect(project).get_model_version("qlass-corridor", "2").tags["comparison"]
    assert "other panels" in reason


def test_an_adapter_brings_the_model_that_it_adapts(project: Path) -> None:
    finished(project, 4, "a")
    (project / paths.BASE_POLICY).mkdir(parents=True)
    (project / paths.BASE_POLICY / "model.safetensors").write_text("base")
    write_json(project / paths.sft_policy(ENV) / "pointer.json", {"source": "../../../base/policy", "revision": None})
    registered(project)
    folder = registry.Registry("qlass-corridor", "qlass", project).champion_files(project)
    source = read_json(folder / "policy" / "pointer.json")["source"]
    assert (folder / "policy" / source / "model.safetensors").read_text() == "base"


def test_nothing_to_register_is_an_error(project: Path) -> None:
    with pytest.raises(DataError, match=r"dvc.lock: no hash of data/sft/corridor/policy.*run `dvc repro`"):
        registered(project)
