"""The fast ALFWorld engine against the stock one, on random walks, character by character."""

from __future__ import annotations

import random
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from qlass.envs.alfworld.adapter import AlfworldEnv, Wording, normalise_wording
from qlass.envs.alfworld.expert import AlfworldExpert
from qlass.envs.alfworld.games import load_game
from qlass.envs.alfworld.library import load_library, release_library
from qlass.envs.alfworld.translation import translate
from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec

if TYPE_CHECKING:
    from collections.abc import Iterator

pytest.importorskip("textworld")
pytest.importorskip("alfworld")
pytestmark = pytest.mark.alfworld


def _key(scene: int, task_type: str, target: str, receptacle: str, toggle: str = "") -> dict[str, Any]:
    return {
        "source": "generated",
        "scene": scene,
        "task_type": task_type,
        "object": target,
        "receptacle": receptacle,
        "toggle": toggle,
        "seed": 0,
    }


# One room of each kind and every way a goal is written.
KITCHEN = _key(10, "pick_heat_then_place_in_recep", "Cup", "Fridge")
LIVING = _key(219, "pick_and_place_simple", "Watch", "Safe")
BEDROOM = _key(308, "pick_two_obj_and_place", "CD", "Safe")
BATHROOM = _key(424, "pick_clean_then_place_in_recep", "SoapBar", "Toilet")
LOOK = _key(308, "look_at_obj_in_light", "Book", "", "DeskLamp")


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings with a cache folder of their own, and admissible actions."""
    return {"cache": str(tmp_path_factory.mktemp("alfworld")), "admissible": True}


@pytest.fixture(scope="module")
def env(options: dict[str, Any]) -> Iterator[AlfworldEnv]:
    """One environment for all tests that do not close it."""
    made = AlfworldEnv(options)
    yield made
    made.close()


def _spec(key: dict[str, Any]) -> TaskSpec:
    return TaskSpec(f"alfworld/test/{key['scene']}", "alfworld", "test", str(key["task_type"]), key)


def _stock(key: dict[str, Any], wording: Wording) -> Any:
    """Load a game into TextWorld's own engine, with ALFWorld's names."""
    from alfworld.agents.environment.alfred_tw_env import AlfredDemangler
    from textworld.envs.pddl import PddlEnv

    argv = sys.argv
    game = load_game(key, {})
    stock = AlfredDemangler(PddlEnv(), shuffle=False)
    stock.load({**game, "grammar": normalise_wording(game["grammar"], wording)})
    sys.argv = argv
    return stock


def _choose(rng: random.Random, commands: tuple[str, ...]) -> str:
    """Draw a command; walking about is drawn less often, so that the other actions occur."""
    acting = [c for c in commands if not c.startswith("go to")]
    return rng.choice(acting if rng.random() < 0.7 else list(commands))


def _walk(env: AlfworldEnv, rng: random.Random, length: int) -> list[str]:
    """Take random steps from the current state; return everything the environment said."""
    said = []
    _, _, terminated, _, info = env.step("look")
    for _ in range(length):
        if terminated:
            break
        action = _choose(rng, info["admissible_actions"])
        observation, reward, terminated, _, info = env.step(action)
        said.append(f"{action}|{observation}|{reward}|{info['admissible_actions']}")
    return said


def _solution(options: dict[str, Any], spec: TaskSpec) -> list[str]:
    """Return the actions by which the expert solves a task."""
    env, expert, actions = AlfworldEnv(options), AlfworldExpert(spec, 0), list[str]()
    observation, info = env.reset(spec)
    while not info["success"]:
        actions.append(expert.act(observation)[1])
        observation, *_, info = env.step(actions[-1])
    env.close()
    return actions


@pytest.mark.parametrize(
    ("key", "wording"),
    [(KITCHEN, "move"), (LIVING, "move"), (BEDROOM, "move"), (BATHROOM, "move"), (LOOK, "classic")],
    ids=lambda value: value if isinstance(value, str) else f"room{value['scene']}",
)
def test_equals_stock_engine(options: dict[str, Any], key: dict[str, Any], wording: Wording) -> None:
    """Feedback, admissible commands and success equal those of the stock engine at every step of a random walk."""
    stock, rng = _stock(key, wording), random.Random(key["scene"])
    env = AlfworldEnv({**options, "wording": wording})
    state = stock.reset()
    observation, info = env.reset(_spec(key))
    assert f"-= Welcome to TextWorld, ALFRED! =-\n\n{observation}" == state.feedback
    solution = _solution(options, _spec(key)) if key is BATHROOM else []
    for step in range(40):
        assert (*info["admissible_actions"], "help") == tuple(
            sorted(state["admissible_commands"], key=lambda c: (c == "help", c))
        )
        action = solution[step] if solution else _choose(rng, info["admissible_actions"])
        action = "open sesame" if step == 5 and not solution else action
        state, score, _ = stock.step(action)
        observation, reward, terminated, _, info = env.step(action)
        assert (observation, reward, terminated) == (state.feedback.strip(), float(score), state["won"])
        if terminated:
            break
    assert terminated == bool(solution)
    env.close()


def test_restore_equals_replay(env: AlfworldEnv) -> None:
    """A restored state says the same as the state reached again from the start, also after other branches."""
    env.reset(_spec(BEDROOM))
    prefix = [said.split("|")[0] for said in _walk(env, random.Random(1), 15)]
    snapshot = env.snapshot()
    first = _walk(env, random.Random(2), 10)
    _walk(env, random.Random(3), 10)
    env.restore(snapshot)
    assert _walk(env, random.Random(2), 10) == first
    env.reset(_spec(KITCHEN))
    env.reset(_spec(BEDROOM))
    for action in ["look", *prefix]:
        env.step(action)
    assert _walk(env, random.Random(2), 10) == first


def test_engines_do_not_disturb_each_other(env: AlfworldEnv, options: dict[str, Any]) -> None:
    """Equal specs and actions give equal answers in every engine of a process, interleaved or not."""
    other = AlfworldEnv(options)
    env.reset(_spec(BATHROOM))
    other.reset(_spec(BATHROOM), seed=1)
    before = env.snapshot()
    alone = _walk(env, random.Random(4), 12)
    assert _walk(other, random.Random(4), 12) == alone
    other.reset(_spec(BEDROOM))
    env.restore(before)
    assert _walk(env, random.Random(4), 12) == alone
    other.close()


def test_invalid_action_is_a_step(env: AlfworldEnv) -> None:
    """What the engine does not understand changes nothing and is marked."""
    env.reset(_spec(BEDROOM))
    before = env.snapshot()
    observation, reward, terminated, truncated, info = env.step("go to the moon")
    assert (observation, reward, terminated, truncated) == ("Nothing happens.", 0.0, False, False)
    assert not info["valid"]
    assert env.snapshot() == before


def test_close_twice_and_use_after(options: dict[str, Any]) -> None:
    """Closing is idempotent; a closed engine says so."""
    env = AlfworldEnv(options)
    env.reset(_spec(BEDROOM))
    env.close()
    env.close()
    with pytest.raises(EnvironmentFault, match="close"):
        env.step("look")


def test_second_load_reads_the_cache(
    env: AlfworldEnv, options: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A problem is translated once per cache folder; a broken file is translated again."""
    from qlass.envs.alfworld import gamestore, translation

    env.reset(_spec(BATHROOM))
    said = _walk(env, random.Random(5), 10)
    folder = Path(options["cache"])
    game = load_game(BATHROOM, {})
    file = folder / f"{translation.problem_key(game['pddl_domain'], game['pddl_problem'])}.json.z"
    stored = file.read_bytes()
    gamestore.shared_store.cache_clear()
    monkeypatch.setattr(translation, "translate", lambda *_: pytest.fail("translated again"))
    fresh = AlfworldEnv(options)
    fresh.reset(_spec(BATHROOM))
    assert _walk(fresh, random.Random(5), 10) == said
    fresh.close()
    monkeypatch.setattr(translation, "translate", translate)
    file.write_bytes(b"broken")
    gamestore.GameStore(folder).get(game)
    assert file.read_bytes() == stored
    assert not list(folder.glob("*.tmp"))


def test_snapshots_belong_to_their_load(env: AlfworldEnv, options: dict[str, Any]) -> None:
    """A snapshot is refused by another engine and after another game; a reset of the same game keeps it valid."""
    env.reset(_spec(BEDROOM))
    snapshot = env.snapshot()
    env.reset(_spec(BEDROOM))
    env.restore(snapshot)
    other = AlfworldEnv(options)
    other.reset(_spec(BEDROOM))
    with pytest.raises(EnvironmentFault, match="snapshot"):
        other.restore(snapshot)
    other.close()
    env.reset(_spec(BATHROOM))
    with pytest.raises(EnvironmentFault, match="snapshot"):
        env.restore(snapshot)


def test_library_copies_are_used_again(options: dict[str, Any]) -> None:
    """Copies of the C library are never unloaded (that crashes the next load), so closing must give them back."""
    library = load_library()
    release_library(library)
    for closing in (True, False):
        env = AlfworldEnv(options)
        other = load_library()
        assert other is not library, "the engine has it"
        env.reset(_spec(BATHROOM))
        assert env.step("inventory")[0] == "You are not carrying anything."
        if closing:
            env.close()
        del env
        assert load_library() is library
        release_library(other)
        release_library(library)


def test_reset_or_step_without_a_game(options: dict[str, Any]) -> None:
    """A step before the first reset is an error of the caller, not a crash."""
    env = AlfworldEnv(options)
    with pytest.raises(EnvironmentFault, match="reset"):
        env.step("look")
    env.close()
