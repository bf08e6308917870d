"""Panels of ALFWorld: disjoint, mixed as ALFRED is, and the original download where there is one."""

from __future__ import annotations

import json
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from qlass.envs.alfworld import DEFINITION, games, panels, rooms
from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec

pytest.importorskip("alfworld", reason="needs the extra alfworld")
pytestmark = pytest.mark.alfworld


def take(split: str, count: int, seed: int = 0) -> list[TaskSpec]:
    return list(islice(panels.panels({}, split, seed), count))


def task_of(spec: TaskSpec) -> tuple[Any, ...]:
    return tuple(spec.key[name] for name in ("task_type", "object", "receptacle", "scene"))


def test_panels_are_disjoint_whatever_prefix_and_seed() -> None:
    tasks = {split: {task_of(spec) for seed in (0, 1) for spec in take(split, 1500, seed)} for split in panels.SPLITS}
    for split in panels.SPLITS:
        assert all(panels.split_of(*task) == split for task in tasks[split])
        assert all(tasks[split].isdisjoint(tasks[other]) for other in panels.SPLITS if other != split)


def test_rooms_are_those_of_alfred() -> None:
    used = {split: {spec.key["scene"] for spec in take(split, 1000)} for split in panels.SPLITS}
    assert used["test_unseen"] == set(panels.UNSEEN_ROOMS)
    seen = set(rooms.scenes()) - set(panels.UNSEEN_ROOMS) - set(panels.RESERVED_ROOMS)
    assert used["train"] == seen
    assert len(seen) == 108
    assert used["dev"] <= seen
    assert used["test_seen"] <= seen


def test_the_mix_of_training_tasks_is_near_alfred_in_every_prefix() -> None:
    target = {"put": 27.8, "clean": 18.5, "cool": 16.3, "two": 16.1, "heat": 13.3, "look": 8.1}
    kinds = {"Kitchen": 47.0, "Bathroom": 22.0, "Bedroom": 19.0, "LivingRoom": 12.0}
    specs = take("train", 900)
    for length, tolerance in ((60, 5.0), (250, 1.5), (900, 0.5)):
        counts = Counter(spec.category for spec in specs[:length])
        assert {name: 100 * counts[name] / length for name in target} == pytest.approx(target, abs=tolerance)
        found = Counter(rooms.room_kind(spec.key["scene"]) for spec in specs[:length])
        assert {name: 100 * found[name] / length for name in kinds} == pytest.approx(kinds, abs=tolerance)


def test_134_unseen_games_have_the_mix_of_valid_unseen() -> None:
    specs = take("test_unseen", 134)
    assert Counter(s.category for s in specs) == {
        "put": 24,
        "look": 18,
        "clean": 31,
        "heat": 23,
        "cool": 21,
        "two": 17,
    }
    assert Counter(spec.key["scene"] for spec in specs) == {10: 77, 308: 27, 424: 19, 219: 11}


def test_task_ids_and_keys() -> None:
    specs = take("train", 30)
    assert specs[17].task_id == "alfworld/train/00017"
    assert {spec.category for spec in specs} == set(DEFINITION.categories) == set(panels.CATEGORIES)
    assert len({json.dumps(spec.key, sort_keys=True) for spec in specs}) == 30
    assert json.loads(json.dumps(specs[0].key)) == specs[0].key
    assert take("train", 5) == specs[:5]
    assert take("train", 5, seed=1) != specs[:5]


def test_goals_that_alfred_never_names_are_left_out() -> None:
    goals = {spec.key["receptacle"] for split in panels.SPLITS for spec in take(split, 1000)}
    assert goals.isdisjoint({"TowelHolder", "HandTowelHolder", "Toaster", "TVStand", "LaundryHamper"})


def test_an_unknown_split_is_refused() -> None:
    with pytest.raises(EnvironmentFault, match="train, dev, test_seen, test_unseen"):
        panels.panels({}, "valid", 0)


@pytest.fixture
def download(tmp_path: Path) -> Path:
    """A tree as `alfworld-download` leaves it: 40 train games and one of each kind that ALFWorld leaves out."""
    root = tmp_path / "json_2.1.1"
    texts = dict.fromkeys(("pddl_domain", "pddl_problem", "grammar"), "some text")

    def add(folder: str, **game: object) -> Path:
        path = root / folder
        path.mkdir(parents=True)
        (path / "traj_data.json").write_text("{}")
        (path / "game.tw-pddl").write_text(json.dumps({"solvable": True, **texts, **game}))
        return path

    for index in range(40):
        add(f"train/pick_and_place_simple-Mug-None-Desk-{index}/trial_{index:02d}", number=index)
    add("train/pick_and_place_simple-AppleSliced-None-Desk-301/trial_1")
    add("train/pick_and_place_with_movable_recep-Mug-Box-Desk-301/trial_1")
    add("valid_unseen/pick_heat_then_place_in_recep-Mug-None-Fridge-10/trial_1")
    add("valid_unseen/pick_heat_then_place_in_recep-Cup-None-Fridge-10/trial_1", solvable=False)
    (add("valid_unseen/pick_heat_then_place_in_recep-Egg-None-Fridge-10/trial_1") / "traj_data.json").unlink()
    return tmp_path


def test_the_original_tree_gives_filtered_disjoint_panels(download: Path) -> None:
    options = {"data": str(download)}
    train, dev, unseen = (list(panels.panels(options, split, 0)) for split in ("train", "dev", "test_unseen"))
    paths = [spec.key["path"] for spec in train + dev]
    assert len(paths) == len(set(paths)) == 40
    assert len(dev) == 2
    assert [spec.task_id for spec in dev] == ["alfworld/dev/00000", "alfworld/dev/00001"]
    assert [spec.key["path"].split("/")[1] for spec in unseen] == ["pick_heat_then_place_in_recep-Mug-None-Fridge-10"]
    assert [spec.category for spec in unseen] == ["heat"]
    assert {spec.key["path"] for spec in panels.panels(options, "dev", 1)} == {spec.key["path"] for spec in dev}
    assert games.load_game(train[0].key, options)["number"] >= 0


def test_unusable_files_are_named(download: Path) -> None:
    options = {"data": str(download)}
    unsolvable = "valid_unseen/pick_heat_then_place_in_recep-Cup-None-Fridge-10/trial_1/game.tw-pddl"
    with pytest.raises(EnvironmentFault, match="solvable is false"):
        games.load_game({"source": "files", "path": unsolvable}, options)
    with pytest.raises(EnvironmentFault, match="no such file"):
        games.load_game({"source": "files", "path": "train/x/y/game.tw-pddl"}, options)
    with pytest.raises(EnvironmentFault, match="leaves out"):
        games.load_game({"source": "files", "path": "train/pick-AppleSliced/y/game.tw-pddl"}, options)
    with pytest.raises(EnvironmentFault, match=r"options\.data"):
        games.load_game({"source": "files", "path": unsolvable}, {})
    with pytest.raises(EnvironmentFault, match="alfworld-download"):
        list(panels.panels({"data": str(download / "nowhere")}, "train", 0))
