"""The exploring expert of ALFWorld: it sees observations only, wins, and says what it does."""

from __future__ import annotations

import os
import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice, pairwise
from pathlib import Path
from typing import NamedTuple

import pytest

from qlass.envs.alfworld import DEFINITION, panels, rooms
from qlass.envs.alfworld.expert import AlfworldExpert
from qlass.envs.alfworld.goals import Goal, parse_goal
from qlass.envs.core.base import TextEnv
from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec

pytest.importorskip("alfworld", reason="needs the extra alfworld")
pytestmark = pytest.mark.alfworld

MAX_STEPS = 40
NOWHERE = TaskSpec("alfworld/train/00000", "alfworld", "train", "put", {})


class Played(NamedTuple):
    """One episode: (thought, action, observation) per step, and whether it was won."""

    spec: TaskSpec
    steps: list[tuple[str, str, str]]
    success: bool


def play(env: TextEnv, spec: TaskSpec) -> Played:
    observation, info = env.reset(spec)
    expert = DEFINITION.make_expert(NOWHERE, 0)  # it gets no more of the task than an agent does
    steps: list[tuple[str, str, str]] = []
    for _ in range(MAX_STEPS):
        thought, action = expert.act(observation)
        observation, _, terminated, _, info = env.step(action)
        steps.append((thought, action, observation))
        if terminated:
            break
    return Played(spec, steps, info["success"])


TOOLS = {"clean": "sinkbasin", "heat": "microwave", "cool": "fridge"}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("alfworld")
    os.environ.setdefault("ALFWORLD_DATA", str(folder))  # else `import alfworld` creates ~/.cache/alfworld
    return folder


@pytest.fixture(scope="module")
def env(cache: Path) -> Iterator[TextEnv]:
    made = DEFINITION.make({"cache": str(cache)})
    yield made
    made.close()


@pytest.fixture(scope="module")
def played(env: TextEnv) -> list[Played]:
    return [play(env, spec) for split in ("train", "test_unseen") for spec in islice(panels.panels({}, split, 0), 20)]


def test_the_expert_wins(played: list[Played]) -> None:
    lost = [episode.spec.task_id for episode in played if not episode.success]
    assert len(lost) <= 2, lost
    assert {episode.spec.category for episode in played} == set(DEFINITION.categories)


def test_thoughts_are_short_and_name_what_the_action_uses(played: list[Played]) -> None:
    for episode in played:
        for thought, action, _ in episode.steps:
            assert len(thought.split()) <= 28, thought
            words = action.split()
            named = [f"{word} {number}" for word, number in pairwise(words) if number.isdigit()]
            assert all(name in thought.lower() for name in named), (thought, action)


def test_thoughts_name_the_need_before_the_decision(played: list[Played]) -> None:
    """What is in sight can then be compared with the words just written, and not with a task sentence far away."""
    for episode in played:
        for thought, action, _ in episode.steps:
            verb, kind = action.split()[:2]
            if verb in {"take", "use"}:
                need = kind + (f" to {episode.spec.category}" if episode.spec.category in TOOLS else "")
                assert re.search(rf"I need (a|one more) {need}\. Is there a {kind} here\? yes, {kind} ", thought), (
                    thought
                )


def test_what_thoughts_ask_themselves_is_answered_from_what_is_in_sight(played: list[Played]) -> None:
    answers: Counter[str] = Counter()
    for episode in played:
        sight: list[str] = []
        for thought, action, observation in episode.steps:
            if asked := re.search(r"Is there a (\w+) here\? (no|yes, ([a-z]+ \d+))\.", thought):
                found = [thing for thing in sight if thing.split()[0] == asked[1]]
                assert asked[3] == (found[0] if found else None), (thought, sight)
                answers[asked[2][:2]] += 1
            if action.startswith("go") or "you see" in observation:
                sight = re.findall(r"[a-z]+ \d+", observation.partition("you see")[2])
            elif taken := re.match(r"You pick up the ([a-z]+ \d+)", observation):
                sight.remove(taken[1])
            elif put := re.match(r"You move the ([a-z]+ \d+)", observation):
                sight.append(put[1])
    assert min(answers.values()) > 10


def test_thoughts_name_the_treatment_before_the_tool(played: list[Played]) -> None:
    """Which tool it is can then be read from the words just written, and not from a task sentence far away."""
    state = {"clean": "clean", "heat": "hot", "cool": "cool"}
    named: set[str] = set()
    for episode in played:
        for thought, action, _ in episode.steps:
            if found := re.fullmatch(r"I have .+\. It must be (\w+)\. I bring it to .+\.", thought):
                category = episode.spec.category
                assert found[1] == state[category]
                assert action.startswith(f"go to {TOOLS[category]} ")
                named.add(category)
    assert named == set(state)


def test_it_never_closes_and_never_repeats_a_visit_in_vain(played: list[Played]) -> None:
    for episode in played:
        actions = [action for _, action, _ in episode.steps]
        assert not any(action.startswith(("close", "look", "inventory")) for action in actions)
        opened = [action for action in actions if action.startswith("open")]
        assert len(opened) == len(set(opened))
        searches = [action for thought, action, _ in episode.steps if "next." in thought and "I check" in thought]
        assert len(searches) == len(set(searches)), searches


def test_it_plays_the_classic_wording_too(cache: Path) -> None:
    env = DEFINITION.make({"cache": str(cache), "wording": "classic"})
    spec = next(panels.panels({}, "test_unseen", 0))
    episode = play(env, spec)
    env.close()
    assert episode.success
    assert " in/on " in episode.steps[-1][1]
    assert sum("Nothing happen" in observation for _, _, observation in episode.steps) <= 2


def test_every_sentence_of_the_goal_library_is_understood() -> None:
    words = {"obj": "cup", "recep": "fridge", "toggle": "desklamp"}
    count = 0
    for category, task_type in panels.CATEGORIES.items():
        for template in rooms.goals()[task_type]["templates"]:
            goal = parse_goal(f"You see a cup 1.\n\nYour task is to: {template.format(**words)}.")
            look = category == "look"
            assert goal == Goal(category, "cup", "" if look else "fridge", "desklamp" if look else "")
            count += 1
    assert count == 12


@pytest.mark.parametrize("text", ["You see nothing.", "Your task is to: dance in fridge."])
def test_an_unknown_goal_is_refused(text: str) -> None:
    with pytest.raises(EnvironmentFault, match="no goal of the goal library"):
        parse_goal(text)


def test_a_room_without_the_tool_is_refused() -> None:
    expert = AlfworldExpert(NOWHERE, 0)
    expert.act("You see a countertop 1, and a desk 1.\n\nYour task is to: heat some mug and put it in desk.")
    expert.act("You arrive at countertop 1. On the countertop 1, you see a mug 2.")
    with pytest.raises(EnvironmentFault, match="no microwave"):
        expert.act("You pick up the mug 2 from the countertop 1.")


ROOM = "You are in the middle of a room. Looking quickly around you, you see a {}.\n\nYour task is to: {}."


def test_a_pick_two_episode_step_by_step() -> None:
    """The second object was seen on the way, and both go to one place."""
    expert = AlfworldExpert(NOWHERE, 0)
    places = "cabinet 2, a cabinet 1, a countertop 1, and a drawer 1"
    script = [
        (ROOM.format(places, "find two saltshaker and put them in cabinet"), "go to countertop 1"),
        ("You arrive at countertop 1. On the countertop 1, you see a saltshaker 3, and a saltshaker 1.", "take saltshaker 3 from countertop 1"),
        ("You pick up the saltshaker 3 from the countertop 1.", "go to cabinet 1"),
        ("You arrive at cabinet 1. The cabinet 1 is closed.", "open cabinet 1"),
        ("You open the cabinet 1. The cabinet 1 is open. In it, you see a mug 1.", "move saltshaker 3 to cabinet 1"),
        ("You move the saltshaker 3 to the cabinet 1.", "go to countertop 1"),
        ("You arrive at countertop 1. On the countertop 1, you see a saltshaker 1.", "take saltshaker 1 from countertop 1"),
        ("You pick up the saltshaker 1 from the countertop 1.", "go to cabinet 1"),
        ("You arrive at cabinet 1. The cabinet 1 is open. In it, you see a mug 1, and a saltshaker 3.", "move saltshaker 1 to cabinet 1"),
    ]  # fmt: skip
    for observation, action in script:
        assert expert.act(observation)[1] == action


def test_places_that_share_a_stand_point() -> None:
    """The engine refuses to go where one stands already; the place is at hand then."""
    expert = AlfworldExpert(NOWHERE, 0)
    first = ROOM.format("drawer 2, a drawer 1, and a bed 1", "put a pen in bed")
    assert expert.act(first)[1] == "go to drawer 1"
    assert expert.act("You arrive at drawer 1. The drawer 1 is closed.")[1] == "open drawer 1"
    assert expert.act("You open the drawer 1. The drawer 1 is open. In it, you see nothing.")[1] == "go to drawer 2"
    assert expert.act("Nothing happens.")[1] == "open drawer 2"
    seen = expert.act("You open the drawer 2. The drawer 2 is open. In it, you see a pen 1.")
    assert seen == (
        "I need a pen. Is there a pen here? yes, pen 1. I take it from drawer 2.",
        "take pen 1 from drawer 2",
    )


def test_a_lamp_seen_on_the_way_is_remembered() -> None:
    expert = AlfworldExpert(NOWHERE, 0)
    assert (
        expert.act(ROOM.format("bed 1, a desk 1, and a shelf 1", "examine the cd with the desklamp"))[1]
        == "go to desk 1"
    )
    assert expert.act("You arrive at desk 1. On the desk 1, you see a desklamp 1.")[1] == "go to shelf 1"
    assert expert.act("You arrive at shelf 1. On the shelf 1, you see a cd 2.")[1] == "take cd 2 from shelf 1"
    assert expert.act("You pick up the cd 2 from the shelf 1.")[1] == "go to desk 1"
    assert expert.act("You arrive at desk 1. On the desk 1, you see a desklamp 1.")[1] == "use desklamp 1"


def test_a_refused_put_is_said_in_the_other_wording_once() -> None:
    expert = AlfworldExpert(NOWHERE, 0, wording="classic")
    expert.act(ROOM.format("sofa 2, a sofa 1, and a desk 1", "put some cd on sofa"))
    expert.act("You arrive at desk 1. On the desk 1, you see a cd 2.")
    assert expert.act("You pick up the cd 2 from the desk 1.")[1] == "go to sofa 1"
    assert expert.act("You arrive at sofa 1. On the sofa 1, you see nothing.")[1] == "put cd 2 in/on sofa 1"
    assert expert.act("Nothing happened")[1] == "move cd 2 to sofa 1"
    assert expert.act("Nothing happened")[1] == "go to sofa 2"
