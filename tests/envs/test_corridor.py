"""`corridor`: its rules, its expert, its panels and its optimal Q-values."""

from itertools import islice

import pytest

from qlass.envs import get_definition, make_env
from qlass.envs.corridor import optimal_q
from qlass.errors import EnvironmentFault, SettingsError
from qlass.records import TaskSpec

CORRIDOR = get_definition("corridor")
OPTIONS = {"length": 5, "rooms": 3}
SPLITS = ("train", "dev", "test_seen", "test_unseen")


def task(category="fetch", item="lamp", **key):
    plan = {"doors": "red - blue - green", "items": "- lamp - key book", "start": 3, "room": "red", "item": item}
    return TaskSpec("corridor/train/00000", "corridor", "train", category, plan | key)


def play(spec, *actions):
    """Return what each action answers: (observation, reward, ended, valid, success)."""
    env = CORRIDOR.make(OPTIONS)
    found = [env.reset(spec)[0]]
    for action in actions:
        observation, reward, terminated, truncated, info = env.step(action)
        assert not truncated
        found.append((observation, reward, terminated, info["valid"], info["success"]))
    env.close()
    return found


def test_fetch_with_the_item():
    assert play(task(), "go west", "take lamp", "go west", "enter red room") == [
        "You are at cell 3 of 5. There is a blue door. Your task is to: bring the lamp to the red room.",
        ("You are at cell 2 of 5. There is a lamp on the floor.", 0.0, False, True, False),
        ("You take the lamp. You are at cell 2 of 5. You carry: lamp.", 0.0, False, True, False),
        ("You are at cell 1 of 5. There is a red door. You carry: lamp.", 0.0, False, True, False),
        ("You enter the red room. You have done it.", 1.0, True, True, True),
    ]


def test_fetch_without_the_item_earns_half():
    assert play(task(), "go west", "go west", "enter red room")[-1] == (
        "You enter the red room. You should have brought the lamp.", 0.5, True, True, False,
    )  # fmt: skip


def test_a_wrong_room_is_a_dead_end():
    assert play(task(), "enter blue room")[-1] == (
        "You enter the blue room. It is the wrong room.", 0.0, True, True, False,
    )  # fmt: skip


def test_enter_needs_no_item():
    first, last = play(task("enter", "", room="blue"), "enter blue room")
    assert first.endswith("Your task is to: enter the blue room.")
    assert last[1:] == (1.0, True, True, True)


def test_a_locked_room_stays_closed_without_the_key():
    spec = task("unlock", "key", room="blue")
    first, locked, *_, opened = play(spec, "enter blue room", "go east", "take key", "go west", "enter blue room")
    assert first.endswith("Your task is to: enter the blue room, which is locked.")
    assert locked == (
        "The blue room is locked. You are at cell 3 of 5. There is a blue door.",
        0.0,
        False,
        True,
        False,
    )
    assert opened[1:] == (1.0, True, True, True)


@pytest.mark.parametrize("action", ["", "go north", "take lamp", "enter red room", "look", "go"])
def test_what_is_not_possible_changes_nothing(action):
    refused, after = play(task(), action, "go west")[1:]
    assert refused == ("You cannot do that.", 0.0, False, False, False)
    assert after[0] == "You are at cell 2 of 5. There is a lamp on the floor."


def test_actions_are_normalised():
    assert CORRIDOR.normalise_action("  Go   WEST. ") == "go west"
    assert play(task(), "  Go   WEST. ")[1][3]


def test_admissible_actions():
    env = CORRIDOR.make(OPTIONS)
    assert env.reset(task())[1]["admissible_actions"] == ("enter blue room", "go east", "go west")
    assert env.step("go west")[4]["admissible_actions"] == ("go east", "go west", "take lamp")
    env.step("go west")
    assert env.step("enter red room")[4]["admissible_actions"] == ()


def test_snapshots_are_independent():
    env = CORRIDOR.make(OPTIONS)
    env.reset(task())
    start = env.snapshot()
    env.step("go west")
    west = env.snapshot()
    env.restore(start)
    assert env.step("enter blue room")[2]
    env.restore(west)
    assert env.step("take lamp")[0] == "You take the lamp. You are at cell 2 of 5. You carry: lamp."


def test_steps_outside_an_episode_are_errors():
    env = CORRIDOR.make(OPTIONS)
    with pytest.raises(EnvironmentFault, match="there is no episode"):
        env.step("go west")
    env.reset(task())
    env.step("enter blue room")
    with pytest.raises(EnvironmentFault, match="it is over"):
        env.step("go west")


@pytest.mark.parametrize(
    "change", [{"start": 9}, {"start": "3"}, {"doors": "red"}, {"room": "white"}, {"items": None}]
)
def test_a_key_that_is_no_corridor(change):
    with pytest.raises(EnvironmentFault, match="corridor/train/00000"):
        CORRIDOR.make(OPTIONS).reset(task(**change))


def test_a_category_that_does_not_exist():
    with pytest.raises(EnvironmentFault, match="category='look'"):
        CORRIDOR.make(OPTIONS).reset(task("look"))


@pytest.mark.parametrize("split", SPLITS)
def test_the_expert_solves_its_tasks(split):
    # 13 steps are the worst case in 5 cells: to one end, to the other, back, take and enter.
    for spec in islice(CORRIDOR.panels(OPTIONS, split, 0), 60):
        for seed in (0, 1):
            env, expert = make_env(CORRIDOR, OPTIONS, 14), CORRIDOR.make_expert(spec, seed)
            observation, ended = env.reset(spec)[0], False
            while not ended:
                thought, action = expert.act(observation)
                assert thought.endswith(".")
                observation, _, terminated, truncated, info = env.step(action)
                assert info["valid"], (spec, action)
                ended = terminated or truncated
            assert info["success"], spec


def test_the_expert_searches_and_remembers():
    expert = CORRIDOR.make_expert(task(), 0)
    env = CORRIDOR.make(OPTIONS)
    observation, replies = env.reset(task())[0], []
    for _ in range(8):
        replies.append(expert.act(observation))
        observation, _, terminated, _, _ = env.step(replies[-1][1])
        if terminated:
            break
    assert [action for _, action in replies] == [
        "go east", "go east", "go west", "go west", "go west", "take lamp", "go west", "enter red room",
    ] or [action for _, action in replies] == ["go west", "take lamp", "go west", "enter red room"]  # fmt: skip
    assert replies[0][0] == "I have not seen the lamp yet."
    assert replies[-1][0] == "The red room is here."


def test_the_expert_refuses_what_it_cannot_read():
    with pytest.raises(EnvironmentFault, match="no place or no goal"):
        CORRIDOR.make_expert(task(), 0).act("Welcome!")


def test_panels_are_reproducible_balanced_and_disjoint():
    identities = {}
    for split in SPLITS:
        specs = list(islice(CORRIDOR.panels(OPTIONS, split, 0), 90))
        assert specs == list(islice(CORRIDOR.panels(OPTIONS, split, 0), 90))
        assert specs != list(islice(CORRIDOR.panels(OPTIONS, split, 1), 90))
        assert [spec.category for spec in specs] == list(CORRIDOR.categories) * 30
        assert [spec.task_id for spec in specs] == [f"corridor/{split}/{i:05d}" for i in range(90)]
        identities[split] = {(spec.category, *spec.key.values()) for spec in specs}
        assert len(identities[split]) == 90
    assert len(set.union(*identities.values())) == 360


def test_splits_are_disjoint_whatever_the_seed():
    small = {"length": 3, "rooms": 2}
    tasks = {
        split: {(spec.category, *spec.key.values()) for seed in (0, 1) for spec in CORRIDOR.panels(small, split, seed)}
        for split in SPLITS
    }
    assert all(tasks.values())
    assert sum(map(len, tasks.values())) == len(set.union(*tasks.values()))


def test_test_unseen_has_doors_of_its_own():
    plans = {
        split: {spec.key["doors"] for spec in islice(CORRIDOR.panels(OPTIONS, split, 0), 300)} for split in SPLITS
    }
    assert plans["train"] == plans["dev"] == plans["test_seen"]
    assert not plans["train"] & plans["test_unseen"]


@pytest.mark.parametrize(
    "options",
    [{}, {"length": 5}, {"length": 2, "rooms": 2}, {"length": 5, "rooms": 7}, {"length": 3, "rooms": 4},
     {"length": "5", "rooms": 3}, {"length": 5, "rooms": 3, "walls": 1}],
)  # fmt: skip
def test_options_out_of_range(options):
    with pytest.raises(SettingsError, match="corridor options"):
        CORRIDOR.make(options)


def test_an_unknown_split():
    with pytest.raises(SettingsError, match="allowed are train, dev, test_seen, test_unseen"):
        CORRIDOR.panels(OPTIONS, "valid", 0)


@pytest.mark.parametrize(
    ("actions", "expected"),
    [
        (["go west"], 0.9**3),  # take, west, enter
        (["go west", "take lamp", "go west", "enter red room"], 1.0),
        (["go east"], 0.9**5),  # back and on, as above
        (["enter blue room"], 0.0),
        (["go west", "go west"], 0.9**4),  # back for the lamp is worth more than 0.9 * 0.5 at once
        (["go west", "go west", "enter red room"], 0.5),
        (["look"], 0.9**4),  # costs a step
    ],
)
def test_optimal_q_by_hand(actions, expected):
    assert optimal_q(task(), actions, 0.9) == pytest.approx(expected)


def test_optimal_q_within_a_step_limit():
    assert optimal_q(task(), ["go west"], 0.9, max_steps=4) == pytest.approx(0.9**3)
    assert optimal_q(task(), ["go west"], 0.9, max_steps=3) == pytest.approx(0.9**2 * 0.5)  # no time for the lamp
    assert optimal_q(task(), ["go west"], 0.9, max_steps=2) == 0.0


def test_optimal_q_after_the_end():
    with pytest.raises(EnvironmentFault, match="goes on after the end"):
        optimal_q(task(), ["enter blue room", "go west"], 0.9)
