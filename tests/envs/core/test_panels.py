"""Panels: reproducible, hashed, disjoint."""

import json
from dataclasses import replace

import pytest

from qlass.envs import get_definition
from qlass.envs.core.panels import Panel, build_panel, check_disjoint, load_panel, save_panel
from qlass.errors import DataError, SettingsError
from qlass.records import TaskSpec

CORRIDOR = get_definition("corridor")
OPTIONS = {"length": 5, "rooms": 3}
SPLITS = ("train", "dev", "test_seen", "test_unseen")


def spec(number, split="train", **key):
    return TaskSpec(f"toy/{split}/{number}", "toy", split, "count", {"goal": number} | key)


def panel(*tasks, split="train"):
    return Panel("toy", split, tasks)


def test_the_hash_never_changes():
    # A committed number: the hash is how a result says on which tasks it was measured.
    assert panel(spec(1), spec(2)).sha256 == "9dd3982122f25fba2a9c86bf1c4025bac475e4452a2ebb94d305480423aa5e47"


@pytest.mark.parametrize(
    "other",
    [panel(spec(2), spec(1)), panel(spec(1)), panel(spec(1), spec(2, seed=1)), Panel("toy2", "train", (spec(1), spec(2))),
     Panel("toy", "dev", (spec(1), spec(2)))],
    ids=["order", "fewer", "key", "env", "split"],
)  # fmt: skip
def test_the_hash_is_of_everything(other):
    assert other.sha256 != panel(spec(1), spec(2)).sha256


def test_the_hash_does_not_depend_on_the_order_of_keys():
    one, other = replace(spec(1), key={"a": 1, "b": 2}), replace(spec(1), key={"b": 2, "a": 1})
    assert panel(one).sha256 == panel(other).sha256


@pytest.mark.parametrize("split", SPLITS)
def test_build_save_load(tmp_path, split):
    built = build_panel(CORRIDOR, OPTIONS, split, 12, 0)
    assert built == build_panel(CORRIDOR, OPTIONS, split, 12, 0)
    assert build_panel(CORRIDOR, OPTIONS, split, 6, 0).tasks == built.tasks[:6]
    path = tmp_path / "panels" / f"{split}.json"
    save_panel(path, built)
    assert load_panel(path) == built
    content = json.loads(path.read_text())
    assert sorted(content) == ["count", "env", "sha256", "split", "tasks"]
    assert (content["count"], content["sha256"]) == (12, built.sha256)


def test_splits_are_disjoint():
    check_disjoint(build_panel(CORRIDOR, OPTIONS, split, 40, seed) for seed, split in enumerate(SPLITS))


def test_the_same_panel_twice_is_no_overlap():
    check_disjoint([panel(spec(1)), panel(spec(1))])


@pytest.mark.parametrize(
    "other",
    [panel(replace(spec(1, "dev"), task_id="toy/train/1", key={"goal": 7}), split="dev"), panel(spec(1, "dev"), split="dev")],
    ids=["task_id", "content"],
)  # fmt: skip
def test_an_overlap_is_named(other):
    with pytest.raises(DataError, match="of dev is toy/train/1 of train too"):
        check_disjoint([panel(spec(1), spec(2)), other])


def test_equal_keys_of_two_environments_are_no_overlap():
    check_disjoint([panel(spec(1)), Panel("other", "dev", (replace(spec(1, "dev"), env="other"),))])


def test_as_many_tasks_as_wanted(toy):
    with pytest.raises(DataError, match="panel train of toy: 10 tasks wanted, the environment has 9"):
        build_panel(toy(), {}, "train", 10, 0)


@pytest.mark.parametrize("count", [0, -1])
def test_at_least_one_task(toy, count):
    with pytest.raises(SettingsError, match=f"{count} tasks wanted, at least 1"):
        build_panel(toy(), {}, "train", count, 0)


@pytest.mark.parametrize(
    ("tasks", "message"),
    [
        ([spec(1), spec(1)], "two tasks have the task_id toy/train/1"),
        ([spec(1), replace(spec(2), key={"goal": 1})], r'two tasks have the key \["count", {"goal": 1}\]'),
        ([spec(1, "dev")], "toy/dev/1 belongs to split dev of toy"),
        ([replace(spec(1), env="corridor")], "belongs to split train of corridor"),
    ],
)
def test_what_an_environment_must_not_offer(toy, tasks, message):
    with pytest.raises(DataError, match=f"panel train of toy: .*{message}"):
        build_panel(toy(panels=lambda options, split, seed: iter(tasks)), {}, "train", len(tasks), 0)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda content: content["tasks"].pop(), "1 tasks with sha256 .*promises 2"),
        (lambda content: content["tasks"].reverse(), "it was edited or damaged"),
        (lambda content: content["tasks"][0]["key"].update(goal=9), "it was edited or damaged"),
        (lambda content: content.update(split="dev"), "it was edited or damaged"),
        (lambda content: content.update(count=3), "promises 3"),
        (lambda content: content.pop("sha256"), "not a panel"),
        (lambda content: content.update(tasks={}), "tasks must be a list"),
        (lambda content: content["tasks"][0].pop("env"), "not a TaskSpec: env: missing, expected text"),
    ],
)
def test_a_changed_file_is_refused(tmp_path, change, message):
    path = tmp_path / "train.json"
    save_panel(path, panel(spec(1), spec(2)))
    content = json.loads(path.read_text())
    change(content)
    path.write_text(json.dumps(content))
    with pytest.raises(DataError, match=rf"train\.json.*{message}"):
        load_panel(path)


def test_a_list_is_no_panel(tmp_path):
    (tmp_path / "x.json").write_text("[]")
    with pytest.raises(DataError, match="not a panel"):
        load_panel(tmp_path / "x.json")
