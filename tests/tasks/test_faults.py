"""Tasks that an environment cannot play: each is one failed task, counted and named; a stage without any other fails.

The corridor's tasks are complete in their panels, so a panel with a wrong key is a damaged game: real engines in real
worker processes raise EnvironmentFault on it.
"""

from __future__ import annotations

import json
import re
import shutil
from collections.abc import Callable, Iterable
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from qlass.envs import get_definition
from qlass.envs.alfworld.games import GAME, load_game
from qlass.envs.alfworld.panels import panels as alfworld_panels
from qlass.envs.core.panels import load_panel, save_panel
from qlass.jsonl import read_json, read_records
from qlass.records import Episode, ExplorationTree, Trajectory
from tasks.project import paths
from tasks.stages import expert
from tests.tasks.conftest import NO_OVERRIDES

Stage = Callable[..., tuple[int, str]]
Params = Callable[[dict[str, Any]], None]
OPTIONS = {"length": 5, "rooms": 3}
SMALL = {
    "envs.corridor.panel": {"train": 6, "dev": 2, "test_seen": 3, "test_unseen": 2},
    "explore.tasks": 3,
    "explore.depth": 1,
    "explore.max_nodes": 20,
    "explore.shard_size": 1,
    "evaluate.shard_size": 2,
    "base.max_new_tokens": 4,
}


@pytest.fixture
def played(project: Path, params: Params, stage: Stage, tiny_policy: Path) -> Path:
    """A project with panels, trajectories and a random policy."""
    params(SMALL)
    for policy in (paths.BASE_POLICY, paths.policy("corridor", "sft")):
        shutil.copytree(tiny_policy, project / policy)
    code, log = stage("expert", "corridor")
    assert code == 0, log
    return project


def damage(project: Path, split: str, numbers: Iterable[int]) -> None:
    """Give tasks of a panel a key that is no corridor."""
    path = project / paths.panel("corridor", split)
    panel = load_panel(path)
    broken = {number: {"doors": f"nowhere {number}"} for number in numbers}
    tasks = [replace(task, key=broken.get(number, task.key)) for number, task in enumerate(panel.tasks)]
    save_panel(path, replace(panel, tasks=tuple(tasks)))


def work_files(project: Path) -> list[Path]:
    return list((project / paths.WORK).rglob("shard-*"))


@pytest.mark.slow
def test_exploration_loses_one_tree(played: Path, params: Params, stage: Stage) -> None:
    """The tree is missing, counted and named; the others are what they are without it, whatever the shards."""
    assert stage("explore", "corridor")[0] == 0
    whole = read_records(played / paths.trees("corridor"), ExplorationTree)
    undamaged = read_json(played / paths.metrics("explore", "corridor"))
    assert not undamaged.keys() & {"errors", "failed_tasks"}
    damage(played, "train", [1])
    code, log = stage("explore", "corridor")
    assert code == 0, log
    assert (
        "explore/corridor: task=corridor/train/00001 failed=\"corridor/train/00001: key={'doors': 'nowhere 1'}" in log
    )
    assert read_records(played / paths.trees("corridor"), ExplorationTree) == [whole[0], whole[2]]
    found = read_json(played / paths.metrics("explore", "corridor"))
    assert (found["trees"], found["errors"]) == (2, 1)
    assert list(found["failed_tasks"]) == ["corridor/train/00001"]
    assert "is no corridor" in found["failed_tasks"]["corridor/train/00001"]
    files = [played / paths.trees("corridor"), played / paths.metrics("explore", "corridor")]
    once = [file.read_bytes() for file in files]
    params({"explore.shard_size": 2, "base.workers": 2})
    assert stage("explore", "corridor")[0] == 0
    assert [file.read_bytes() for file in files] == once
    assert stage("label", "corridor")[0] == 0


@pytest.mark.slow
def test_evaluation_loses_one_task(played: Path, stage: Stage) -> None:
    """It counts as not solved and is named in metrics, log and report."""
    damage(played, "test_seen", [2])
    code, log = stage("evaluate", "corridor", "sft")
    assert code == 0, log
    assert 'sft/corridor: task=corridor/test_seen/00002 (seed 0) failed="EnvironmentFault: ' in log
    episodes = read_records(played / paths.episodes("corridor", "sft", "test_seen"), Episode)
    assert [bool(episode.error) for episode in episodes] == [False, False, True]
    found = read_json(played / paths.metrics("evaluate", "corridor", "sft"))
    assert (found["test_seen"]["n_tasks"], found["test_seen"]["errors"]) == (3, 1)
    assert found["test_seen"]["failed_tasks"] == {"corridor/test_seen/00002": episodes[2].error}
    assert found["test_unseen"]["errors"] == 0
    assert "failed_tasks" not in found["test_unseen"]
    assert stage("report")[0] == 0
    page = (played / paths.REPORT / "index.html").read_text()
    assert "The environment could not play 1 task to the end, which counts as not solved" in page
    assert (
        "corridor/test_seen/00002 (seen test tasks) failed and counts as not solved by SFT: EnvironmentFault" in page
    )
    assert "* corridor/test_seen/00002 (seen test tasks) failed" in (played / paths.REPORT / "results.md").read_text()


@pytest.mark.slow
@pytest.mark.parametrize("arguments", [("explore", "corridor"), ("evaluate", "corridor", "sft")])
def test_a_stage_that_can_play_nothing_fails(played: Path, stage: Stage, arguments: tuple[str, ...]) -> None:
    """0 % would be a lie. Nothing is kept of the attempt, since what is mended may be no input that DVC knows."""
    split = "train" if arguments[0] == "explore" else "test_seen"
    kept = (played / paths.panel("corridor", split)).read_bytes()
    damage(played, split, range(6))
    code, log = stage(*arguments)
    assert code == 5
    assert re.search(rf"could play none of 3 tasks, so there is no result; the first, corridor/{split}/00000", log)
    assert "is no corridor: KeyError('items'). Mend what it names and run the stage again" in log
    assert work_files(played) == []
    (played / paths.panel("corridor", split)).write_bytes(kept)
    assert stage(*arguments)[0] == 0


def test_the_expert_passes_over_a_task_that_cannot_be_played() -> None:
    """On fresh engines: those that raised are closed."""
    setup = expert.ExpertSetup("corridor", OPTIONS, 12, True, 0)
    specs = list(islice(get_definition("corridor").panels(OPTIONS, "train", 0), 3))
    plain = expert.start(setup)(specs)
    assert [one.error for one in plain] == [""] * 3
    found = expert.start(setup)([specs[0], replace(specs[1], key={}), specs[2]])
    assert [found[0], found[2]] == [plain[0], plain[2]]
    assert (found[1].task_id, found[1].trajectory) == (specs[1].task_id, None)
    assert "is no corridor" in found[1].error


def test_statistics_name_what_failed(played: Path) -> None:
    train = load_panel(played / paths.panel("corridor", "train"))
    trajectories = read_records(played / paths.trajectories("corridor"), Trajectory)
    lost = [task.task_id for task in train.tasks if task.category == train.tasks[0].category]
    kept = [one for one in trajectories if one.task_id not in lost]
    found = expert.statistics({"train": train}, kept, dict.fromkeys(lost, "gone"))
    assert (found["played"], found["errors"], found["failed_tasks"]) == (
        len(kept),
        len(lost),
        dict.fromkeys(lost, "gone"),
    )
    assert found["success_rate"] == 100 * len(kept) / len(train.tasks)
    assert found["by_category"][train.tasks[0].category]["success_rate"] == 0.0


@pytest.fixture
def original(project: Path, params: Params, tmp_path: Path) -> Path:
    """A project on a folder of games as `alfworld-download` leaves it, 24 in train; returns their folder."""
    pytest.importorskip("textworld")
    pytest.importorskip("alfworld")
    root = tmp_path / "download" / "json_2.1.1"
    for split, folder, count in (("train", "train", 24), ("dev", "valid_seen", 2), ("test_unseen", "valid_unseen", 2)):
        specs = (spec for spec in alfworld_panels({}, split, 0) if spec.key["scene"] > 400 or split == "test_unseen")
        for number, spec in enumerate(islice(specs, count)):
            trial = root / folder / f"{spec.key['task_type']}-X-None-Y-{number}" / "trial_1"
            trial.mkdir(parents=True)
            (trial / "traj_data.json").write_text("{}")
            (trial / GAME).write_text(json.dumps(load_game(spec.key, {})))
    options = {"data": str(root.parent), "engine": "native", "wording": "move"}
    counts = {"train": 8, "dev": 1, "test_seen": 1, "test_unseen": 1}
    env = {"max_steps": 40, "panel": counts, "options": options, "overrides": NO_OVERRIDES}
    params({"run.envs": ["alfworld"], "envs.alfworld": env})
    return root / "train"


@pytest.mark.slow
@pytest.mark.alfworld
def test_the_expert_on_damaged_original_games(original: Path, project: Path, stage: Stage) -> None:
    """A file that cannot be read ends the stage by its name; moved away, the panel is made without it, and nothing that was
    finished for the other panel is taken for it. A game that cannot be played stays in the panel and is counted.
    """
    assert stage("expert", "alfworld")[0] == 0
    panel = load_panel(project / paths.panel("alfworld", "train"))
    broken, unplayable = (project / original.parent / panel.tasks[number].key["path"] for number in (7, 4))
    content = json.loads(unplayable.read_text())
    unplayable.write_text(json.dumps({**content, "pddl_problem": content["pddl_problem"][:2000]}))
    broken.write_bytes(broken.read_bytes()[:1000])
    code, log = stage("expert", "alfworld")
    assert code == 5
    assert f"game {broken}: found 1,000 bytes that are not JSON" in log
    assert "move its folder out of the data folder" in log
    broken.parent.rename(project / "moved")
    code, log = stage("expert", "alfworld")
    assert code == 0, log
    without = load_panel(project / paths.panel("alfworld", "train"))
    assert [task.key["path"] for task in without.tasks[:7]] == [task.key["path"] for task in panel.tasks[:7]]
    found = read_json(project / paths.expert_stats("alfworld"))
    assert (found["played"], found["errors"]) == (7, 1)
    assert f"game {unplayable}: " in found["failed_tasks"]["alfworld/train/00004"]
    assert re.search(rf"task=alfworld/train/00004 failed=.alfworld/train/00004: game {unplayable}", log)
    trajectories = read_records(project / paths.trajectories("alfworld"), Trajectory)
    assert "alfworld/train/00004" not in {one.task_id for one in trajectories}
