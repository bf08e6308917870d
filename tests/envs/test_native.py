"""The native ALFWorld engine against TextWorld's, step by step, character by character."""

from __future__ import annotations

import random
import re
import sys
from itertools import islice
from typing import TYPE_CHECKING, Any

import pytest

from qlass.envs import get_definition
from qlass.envs.alfworld.adapter import WORDINGS, AlfworldEnv
from qlass.envs.alfworld.engine import TextworldEngine
from qlass.envs.alfworld.expert import AlfworldExpert
from qlass.envs.alfworld.games import load_game
from qlass.envs.alfworld.gamestore import shared_store
from qlass.envs.alfworld.library import require_alfworld
from qlass.envs.alfworld.native import NativeEngine
from qlass.envs.alfworld.native.engine import shared_game
from qlass.envs.alfworld.panels import CATEGORIES, panels
from qlass.envs.core.checker import CHECKS, check_env
from qlass.errors import EnvironmentFault

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from qlass.envs.alfworld.adapter import GameEngine
    from qlass.records import TaskSpec

pytest.importorskip("textworld")
pytest.importorskip("alfworld")
pytestmark = pytest.mark.alfworld

Pair = tuple[AlfworldEnv, AlfworldEnv]
"""(native, TextWorld)."""

DOING = {
    kind: rf"open|use|examine|slice|clean|heat|cool|look|inventory|take ({kind}) "
    for kind in ("knife|butterknife", "apple|potato|tomato|bread|lettuce", "[a-z]+")
}
"""What a tour does wherever it can, by the things that it takes."""

REFUSED = ("", "open sesame", "go to cabinet 99", "take", "Go To fridge 1 please", "slice knife 1 with knife 1")


@pytest.fixture(scope="module")
def make(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Callable[[str], Pair]]:
    """Return a function that makes one environment per engine, in a wording."""
    cache, made = str(tmp_path_factory.mktemp("alfworld")), []

    def pair(wording: str) -> Pair:
        options = {"cache": cache, "admissible": True, "wording": wording}
        made.extend(AlfworldEnv({**options, "engine": engine}) for engine in ("native", "textworld"))
        return made[-2], made[-1]

    yield pair
    for env in made:
        env.close()


@pytest.fixture
def engines(tmp_path: Path) -> Iterator[tuple[GameEngine, GameEngine]]:
    """Yield both engines, without the environment around them."""
    require_alfworld(tmp_path)
    both = NativeEngine(), TextworldEngine(shared_store(tmp_path))
    yield both
    for engine in both:
        engine.close()


def tasks(split: str, category: str, number: int) -> Iterator[TaskSpec]:
    """Yield tasks of one type, from all rooms that have it."""
    return islice((spec for spec in panels({}, split, 7) if spec.category == category), number)


def reset(envs: Pair, spec: TaskSpec) -> tuple[str, dict[str, Any]]:
    """Start a task in both; return what both said."""
    native, real = (env.reset(spec) for env in envs)
    assert native == real
    return native  # type: ignore[return-value]


def step(envs: Pair, action: str) -> Any:
    """Take a step in both; return what both said: observation, reward, terminated, truncated, admissible actions."""
    native, real = (env.step(action) for env in envs)
    assert native == real, action
    return native


def draw(rng: random.Random, admissible: tuple[str, ...]) -> str:
    """Draw an action: a kind of action first, so that the rare ones occur; sometimes one that is refused."""
    if rng.random() < 0.05:
        return rng.choice((*REFUSED, "help"))
    going = [action for action in admissible if action.startswith("go ")]
    if going and rng.random() < 0.4:
        return rng.choice(going)
    verb = rng.choice(sorted({action.split()[0] for action in admissible} - {"go"}))
    return rng.choice([action for action in admissible if action.split()[0] == verb])


def play_randomly(envs: Pair, spec: TaskSpec, rng: random.Random, length: int) -> int:
    """Compare a random walk with a detour that is taken back; return the number of steps compared."""
    _, info = reset(envs, spec)
    offered: set[str] = set()
    for number in range(length):
        if number == length // 2:
            before, kept = [env.snapshot() for env in envs], info
            for _ in range(8):
                info = step(envs, draw(rng, info["admissible_actions"]))[4]
            for env, snapshot in zip(envs, before, strict=True):
                env.restore(snapshot)
            info = kept
        # What was possible elsewhere is the likeliest to be refused wrongly, or not refused.
        offered |= set(info["admissible_actions"])
        elsewhere = rng.random() < 0.1
        info = step(envs, rng.choice(sorted(offered)) if elsewhere else draw(rng, info["admissible_actions"]))[4]
    return length + 8


def play_expertly(envs: Pair, spec: TaskSpec, wording: str) -> tuple[int, bool]:
    """Compare an expert's episode; return the number of steps compared and whether the goal was reached."""
    observation, _ = reset(envs, spec)
    expert = AlfworldExpert(spec, 0, wording=wording)
    for number in range(1, 51):
        observation, reward, terminated, *_ = step(envs, expert.act(observation)[1])
        if terminated:
            return number, reward == 1.0
    return 50, False


def play_everywhere(envs: Pair, spec: TaskSpec, wanted: str, until: str = "never") -> list[str]:
    """Compare a tour: open every place, carry a wanted thing once it is found, do all that can be done with it.

    Return the actions, up to the first that starts with `until`.
    """
    _, info = reset(envs, spec)
    taken: list[str] = []
    for going in [action for action in info["admissible_actions"] if action.startswith("go ")]:
        action, first = going, len(taken)
        while action:
            info = step(envs, action)[4]
            taken.append(action)
            if action.startswith(until):
                return taken
            offered = set(info["admissible_actions"]) - set(taken[first:])
            action = min((a for a in offered if re.match(DOING[wanted], a)), default="")
    return taken


@pytest.mark.parametrize("wording", WORDINGS)
def test_equals_textworld(make: Callable[[str], Pair], wording: str) -> None:
    """Observations, rewards, admissible actions, refusals and the end are equal: one task of each type, three ways."""
    envs, won = make(wording), 0
    for category in CATEGORIES:
        for spec in tasks("test_unseen", category, 1):
            play_randomly(envs, spec, random.Random(spec.task_id), 40)
            play_everywhere(envs, spec, "[a-z]+")
            won += play_expertly(envs, spec, wording)[1]
    assert won >= 5


@pytest.mark.parametrize("wording", WORDINGS)
def test_sliced_food(make: Callable[[str], Pair], wording: str) -> None:
    """What is sliced can be taken, heated and looked at, in the same words."""
    envs = make(wording)
    (spec,) = tasks("test_unseen", "heat", 1)
    *before, last = play_everywhere(envs, spec, "knife|butterknife", until="slice")
    food, place = " ".join(last.split()[1:3]), next(a for a in reversed(before) if a.startswith("go "))[6:]
    options = step(envs, "inventory")[4]["admissible_actions"]
    step(envs, next(action for action in options if action.startswith(("put ", "move "))))
    for action in (
        f"take {food} from {place}",
        f"examine {food}",
        "go to microwave 1",
        f"heat {food} with microwave 1",
    ):
        assert step(envs, action)[4]["valid"], action
    assert step(envs, f"examine {food}")[0] == f"This is a hot sliced {food}."


def test_goal_over_all_receptacles(engines: tuple[GameEngine, GameEngine]) -> None:
    """ALFRED's own goals also ask that every receptacle is closed again."""
    (spec,) = tasks("test_unseen", "heat", 1)
    game = load_game(spec.key, {})
    game["pddl_problem"] = game["pddl_problem"].partition("(:goal")[0] + (
        "(:goal (and (exists (?a - agent ?o - object) (holds ?a ?o)) (forall (?r - receptacle) (not (opened ?r))))))"
    )
    for engine in engines:
        engine.load(game)
        engine.reset()
    for command in [
        command for command in engines[0].admissible_commands() if re.match("go to (cab|draw|frid)", command)
    ]:
        place, won = command[6:], []
        taking = rf"take .* from {place}"
        for pattern in (command, f"open {place}", taking, f"close {place}", f"open {place}"):
            offered = engines[0].admissible_commands()
            chosen = next((c for c in offered if re.fullmatch(pattern, c)), "look")
            assert len({(engine.step(chosen), engine.won()) for engine in engines}) == 1
            won.append(engines[0].won())
        if won == [False, False, False, True, False]:
            return
    pytest.fail("the goal was never reached")


def test_grammar_that_names_the_place_left(engines: tuple[GameEngine, GameEngine]) -> None:
    """Moving needs one operator per starting point where a text speaks of it; the answers stay equal."""
    game = load_game(next(tasks("test_unseen", "look", 1)).key, {})
    game["grammar"] = game["grammar"].replace("You arrive at {r.name}.", "From {lstart.name} to {r.name}.")
    rng = random.Random(0)
    for engine in engines:
        engine.load(game)
        engine.reset()
    left = set()
    for _ in range(60):
        (commands,) = {tuple(engine.admissible_commands()) for engine in engines}
        command = draw(rng, commands)
        ((feedback, _),) = {engine.step(command) for engine in engines}
        left |= set(re.findall(r"From (loc \d+) to", feedback))
    assert len(left) > 5


def test_equals_stock_engine(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """The same with nothing of ours in between: TextWorld's engine as ALFWorld plays it."""
    monkeypatch.setenv("ALFWORLD_DATA", str(tmp_path))
    monkeypatch.setattr(sys, "argv", sys.argv)  # fast-downward overwrites it
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl import PddlEnv

    (spec,) = tasks("test_unseen", "look", 1)
    game = load_game(spec.key, {})
    stock, engine, rng = AlfredDemangler(PddlEnv(), shuffle=False), NativeEngine(), random.Random(0)
    stock.load(game)
    state = stock.reset()
    engine.load(game)
    assert engine.reset().strip() == state.feedback.strip()
    for _ in range(30):
        commands = engine.admissible_commands()
        assert commands == state["admissible_commands"]
        command = draw(rng, tuple(commands))
        state, score, done = stock.step(command)
        feedback, _ = engine.step(command)
        assert (feedback.strip(), engine.won(), float(engine.won())) == (state.feedback.strip(), done, score)


def test_keeps_the_contract() -> None:
    """The checker of environments finds nothing."""
    assert check_env(get_definition("alfworld"), {"engine": "native"}, n_tasks=2) == tuple(CHECKS)


def test_needs_no_package_built_from_source(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither TextWorld nor fast-downward nor alfworld's code is imported; the wheel's data files are enough."""
    for name in ("textworld", "textworld.envs.pddl", "fast_downward", "alfworld.agents.utils.misc", "tatsu"):
        monkeypatch.setitem(sys.modules, name, None)
    shared_game.cache_clear()
    env = AlfworldEnv({"engine": "native"})
    (spec,) = tasks("test_unseen", "look", 1)
    assert env.reset(spec)[0].startswith("You are in the middle of a room.")
    assert env.step("inventory")[0] == "You are not carrying anything."


def test_wrong_engine_is_refused() -> None:
    """The message says what, what was found, what is allowed and what to do."""
    with pytest.raises(EnvironmentFault, match=r"engine is 'java'; allowed are \('textworld', 'native'\). Set one"):
        AlfworldEnv({"engine": "java"})


def test_snapshots() -> None:
    """A snapshot is good in every engine with the same game, after a reset too, and refused with another game."""
    one, other = NativeEngine(), NativeEngine()
    look, put = (load_game(next(tasks("test_unseen", category, 1)).key, {}) for category in ("look", "put"))
    one.load(look)
    one.reset()
    start = one.snapshot()
    moved, _ = one.step(next(command for command in one.admissible_commands() if command.startswith("go ")))
    assert one.snapshot() != start
    one.restore(start)
    assert one.snapshot() == start
    other.load(look)
    other.restore(start)
    assert other.admissible_commands() == one.admissible_commands()
    assert other.step(next(c for c in other.admissible_commands() if c.startswith("go ")))[0] == moved
    other.load(put)
    with pytest.raises(EnvironmentFault, match="another game"):
        other.restore(start)


def test_order_of_calls_is_checked() -> None:
    """Reset before load, step before reset and after close are errors of the caller with a message."""
    engine = NativeEngine()
    with pytest.raises(EnvironmentFault, match="load"):
        engine.reset()
    engine.load(load_game(next(tasks("test_unseen", "look", 1)).key, {}))
    with pytest.raises(EnvironmentFault, match="reset"):
        engine.step("look")
    engine.reset()
    engine.close()
    engine.close()
    with pytest.raises(EnvironmentFault, match="reset"):
        engine.step("look")


@pytest.mark.parametrize(
    ("part", "old", "new", "message"),
    [
        ("pddl_problem", "(:goal", "((:goal", "cannot read it"),
        ("pddl_problem", "(objectAtLocation ", "(objectAtLocation nowhere", "cannot read it"),
        ("pddl_problem", "(exists (?o - object)", "(forall (?o - object)", "a condition is a `forall`"),
        (
            "pddl_domain",
            "(:action look",
            "(:derived (examined ?l) (checked ?l)) (:action look",
            "the domain has :derived",
        ),
        ("grammar", "template ::", "template", "cannot read it"),
        ("grammar", "{r.name |", "{r name |", "cannot read it"),
        (
            "grammar",
            'template :: "look"',
            'template :: "[{o.name | holds(a:agent, o:object)}]"',
            "which actions change",
        ),
        ("grammar", "holdsany(a:agent)", "holdsany(a:agent) | TRUE", "the condition"),
    ],
)
def test_other_games_are_refused(part: str, old: str, new: str, message: str) -> None:
    """What the engine cannot read, or does not know, is an error with a message, never a wrong answer."""
    game = load_game(next(tasks("test_unseen", "put", 1)).key, {})
    assert old in game[part]
    with pytest.raises(EnvironmentFault, match=message):
        NativeEngine().load({**game, part: game[part].replace(old, new)})


@pytest.mark.slow
@pytest.mark.parametrize("category", CATEGORIES)
@pytest.mark.parametrize("wording", WORDINGS)
def test_equals_textworld_in_many_rooms(make: Callable[[str], Pair], wording: str, category: str) -> None:
    """The same on 5,000 steps and more of every task type, in both wordings, over all rooms that have it."""
    envs, steps, won, played = make(wording), 0, 0, 0
    scenes: set[int] = set()
    for split, number in (("train", 60), ("dev", 3), ("test_seen", 3), ("test_unseen", 4)):
        for spec in tasks(split, category, number):
            rng = random.Random(spec.task_id)
            steps += play_randomly(envs, spec, rng, 60)
            steps += len(play_everywhere(envs, spec, rng.choice(list(DOING))))
            expert_steps, success = play_expertly(envs, spec, wording)
            steps, won, played = steps + expert_steps, won + success, played + 1
            scenes.add(spec.key["scene"])
    print(f"{wording} {category}: {steps} steps equal in {len(scenes)} rooms, {won} of {played} won")
    assert steps >= 5000
    assert won >= 0.9 * played
