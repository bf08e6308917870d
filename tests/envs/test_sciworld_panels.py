"""Panels of ScienceWorld: the paper's unseen tasks, no task in two splits, lists from a file; without Java."""

import json

import pytest

from qlass.envs import get_definition
from qlass.envs.core.panels import build_panel, check_disjoint
from qlass.envs.sciworld.panels import PUBLISHED, digest, panels, plays_published, types_of
from qlass.envs.sciworld.tasktypes import BY_NAME, TYPES, simplifications, start_of, type_named
from qlass.errors import DataError, EnvironmentFault, SettingsError
from qlass.records import TaskSpec

SPLITS = ("train", "dev", "test_seen", "test_unseen")


def choices(options, split, seed=0):
    return [(spec.key["task"], spec.key["variation"]) for spec in panels(options, split, seed)]


def test_unseen_tasks_are_exactly_those_of_the_papers_repository():
    found = choices({"pool": "full"}, "test_unseen")
    assert len(found) == 211
    assert digest(found) == PUBLISHED["test_unseen"]


@pytest.mark.parametrize(
    ("pool", "counts"), [("full", (1385, 967, 199, 211)), ("short", (809, 453, 94, 94))], ids=["full", "short"]
)
def test_no_task_is_in_two_splits(pool, counts):
    definition = get_definition("sciworld")
    built = [
        build_panel(definition, {"pool": pool}, split, count, 3) for split, count in zip(SPLITS, counts, strict=True)
    ]
    check_disjoint(built)
    assert tuple(len(choices({"pool": pool}, split)) for split in SPLITS) == counts
    types = {one.name for one in types_of(pool)}
    assert all({spec.category for spec in panel.tasks} == types for panel in built)
    assert all(spec.category in definition.categories for panel in built for spec in panel.tasks)


def test_the_short_pool_is_a_part_of_the_full_one():
    for split in SPLITS:
        assert set(choices({}, split)) <= set(choices({"pool": "full"}, split))
    assert (len(types_of("short")), len(types_of("full"))) == (10, 24)


def test_every_prefix_has_all_types_and_the_seed_orders_only_what_is_learnt_from():
    train = choices({}, "train")
    assert len({name for name, _ in train[:10]}) == 10
    assert sorted(train) == sorted(choices({}, "train", 1))
    assert train != choices({}, "train", 1)
    assert choices({}, "test_seen") == choices({}, "test_seen", 1)


def test_blocks_cover_all_variations_once():
    for one in TYPES:
        assert [number for block in one.blocks for number in block] == list(range(one.variations))


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("find-animal", "find-animal"),
        ("4-4", "find-animal"),
        ("task-3-find-animal", "find-animal"),
        ("task-6-lifespan-(longest-lived)", "lifespan-longest-lived"),
        ("task-2a-test-conductivity", "test-conductivity"),
        ("mendellian-genetics-known-plant", "mendelian-genetics-known-plant"),
        ("find-mineral", None),
        ("", None),
    ],
)
def test_names_of_types(name, expected):
    found = type_named(name)
    assert (found.name if found else None) == expected


def test_simplifications_keep_circuits_and_name_what_easy_leaves_out():
    assert simplifications("find-plant", "closed") == "easy"
    assert simplifications("find-plant", "open").split(",")[-1] == "noElectricalAction"
    for name in ("power-component", "test-conductivity", "power-component-renewable-vs-nonrenewable-energy"):
        assert "noElectricalAction" not in simplifications(name, "open")
    assert "openContainers" in simplifications("power-component", "open")


KEY = {"task": "power-component", "variation": 19, "containers": "open"}


@pytest.mark.parametrize(
    ("change", "allowed"),
    [
        ({"task": "power"}, "the names of 30 types"),
        ({"task": None}, "the names of 30 types"),
        ({"variation": 20}, "variations 0 to 19"),
        ({"variation": -1}, "variations 0 to 19"),
        ({"variation": True}, "variations 0 to 19"),
        ({"variation": "3"}, "variations 0 to 19"),
        ({"containers": "shut"}, "containers open or closed"),
    ],
)
def test_a_key_that_is_no_task(change, allowed):
    assert start_of(TaskSpec("id", "sciworld", "train", "c", KEY)).variation == 19
    with pytest.raises(
        EnvironmentFault, match=f"id: key=.* is no task of ScienceWorld 1.2.3; allowed are .*{allowed}"
    ):
        start_of(TaskSpec("id", "sciworld", "train", "c", KEY | change))


def test_an_unknown_split():
    with pytest.raises(SettingsError, match="split='test', allowed are train, dev, test_seen, test_unseen"):
        panels({}, "test", 0)


@pytest.fixture
def lists(tmp_path):
    """Return a function that writes a file of lists and returns the options with it."""

    def write(content):
        path = tmp_path / "lists.json"
        path.write_text(json.dumps(content))
        return {"lists": str(path), "containers": "closed"}

    return write


def test_lists_from_a_file_in_their_order_without_what_tests_have(lists, caplog):
    options = lists(
        {
            "train": [["task-3-find-animal", 3], ["boil", 2], ["4-4", 5]],
            "dev": [["task-1-boil", 4], ["boil", 2]],
            "test_seen": [["find-animal", 5]],
        }
    )
    assert choices(options, "train") == [("find-animal", 3)]
    assert choices(options, "dev") == [("boil", 4), ("boil", 2)]
    assert choices(options, "test_seen") == [("find-animal", 5)]
    assert "split=train left_out=2: tasks that are in dev or test_seen or test_unseen too" in caplog.text
    spec = next(panels(options, "test_seen", 0))
    assert spec == TaskSpec(
        "sciworld/test_seen/find-animal-0005",
        "sciworld",
        "test_seen",
        "find-animal",
        {"task": "find-animal", "variation": 5, "containers": "closed"},
    )
    with pytest.raises(SettingsError, match="split='test_unseen': .*lists.json has only train, dev, test_seen"):
        panels(options, "test_unseen", 0)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            {"train": [["boil", 1], ["find-mineral", 1]]},
            r"train\[1\]: unknown task 'find-mineral'; allowed are boil, melt",
        ),
        ({"train": [["task-1-boil", 30]]}, r"train\[0\]: boil has no variation 30; allowed are 0 to 29"),
        ({"train": [["boil", -1]]}, r"train\[0\]: boil has no variation -1"),
        ({"train": [["boil", 7], ["melt", 1], ["task-1-boil", 7]]}, r"train\[2\]: boil 7 stands at \[0\] already"),
        ({"tests": []}, "unknown splits tests; allowed are train, dev, test_seen, test_unseen"),
        ({"train": [["boil"]]}, r"train\[0\]\[1\]: missing"),
        ({"train": [["boil", "x"]]}, r"train\[0\]\[1\]: found 'x'"),
        ([], "found"),
    ],
)
def test_lists_that_are_wrong(lists, content, message):
    with pytest.raises(DataError, match=f"lists.json: .*{message}"):
        panels(lists(content), "train", 0)


def test_published_results_are_on_published_tasks_only(lists):
    assert not plays_published({"pool": "full"})  # its seen tasks are others
    unseen = [[one.name, number] for one in TYPES if one.paper for number in one.blocks[2][:10]]
    assert not plays_published(lists({"test_seen": [["boil", 15]], "test_unseen": unseen}))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"pool": "all"}, "pool: found 'all' .text., expected one of short, full"),
        ({"containers": True}, "containers: found true"),
        ({"outcome": "mean"}, "outcome: found 'mean'"),
        ({"start_limit_s": 0}, "start_limit_s: found 0, expected a number > 0"),
        ({"steps": 3}, "steps: unknown"),
    ],
)
def test_options_that_are_not_allowed(change, message):
    with pytest.raises(SettingsError, match=f"sciworld options: {message}"):
        panels(change, "train", 0)


def test_the_label_says_what_is_played():
    label = get_definition("sciworld").label_of
    assert label({}) == "ScienceWorld 1.2.3, 10 short types of task"
    assert label({"pool": "full", "containers": "closed", "outcome": "final"}) == (
        "ScienceWorld 1.2.3, 24 types of task, containers closed, final score"
    )


def test_the_text_of_the_task_is_found():
    cut = get_definition("sciworld").partition_task
    assert cut("Your task is to boil water.") == ("", "Your task is to boil water.", "")
    assert cut("Task description:\nYour task is to boil water.")[1] == "Your task is to boil water."
    assert cut("You move to the kitchen.") == ("You move to the kitchen.", "", "")
    assert all(one.name in BY_NAME for one in TYPES)
