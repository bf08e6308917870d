"""What the ALFWorld adapter adds to the engine: options, wordings, the form of actions."""

from __future__ import annotations

import sys
from typing import Any

import pytest

from qlass.envs.alfworld.adapter import AlfworldEnv, normalise_action, normalise_wording
from qlass.envs.alfworld.games import load_game
from qlass.errors import DependencyNotInstalled, EnvironmentFault
from qlass.records import TaskSpec

pytest.importorskip("textworld")
pytest.importorskip("alfworld")
pytestmark = pytest.mark.alfworld

BEDROOM: dict[str, Any] = {
    "source": "generated",
    "scene": 308,
    "task_type": "pick_two_obj_and_place",
    "object": "CD",
    "receptacle": "Safe",
    "toggle": "",
    "seed": 0,
}
SPEC = TaskSpec("alfworld/test/308", "alfworld", "test", "two", BEDROOM)


@pytest.fixture(scope="module")
def options(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """Settings with a cache folder of their own."""
    return {"cache": str(tmp_path_factory.mktemp("alfworld"))}


def test_no_admissible_actions_unless_asked(options: dict[str, Any]) -> None:
    """Without the option nothing is listed; actions work all the same."""
    env = AlfworldEnv(options)
    assert env.reset(SPEC)[1]["admissible_actions"] == ()
    assert env.step("  Go  to bed 1.")[4] == {
        "admissible_actions": (),
        "valid": True,
        "success": False,
        "outcome": 0.0,
    }
    env.close()


def test_options_are_checked() -> None:
    """A wording that does not exist is refused."""
    with pytest.raises(EnvironmentFault, match="wording"):
        AlfworldEnv({"wording": "modern"})


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without textworld the error says what to install."""
    monkeypatch.setitem(sys.modules, "textworld.envs.pddl", None)
    with pytest.raises(DependencyNotInstalled, match=r"pip install qlass\[alfworld\]"):
        AlfworldEnv({})


@pytest.mark.parametrize(
    ("written", "executed"),
    [("  Go to\tdesk 1. ", "go to desk 1"), ("look", "look"), ("put cup 1 in/on desk 1.", "put cup 1 in/on desk 1")],
)
def test_normalise_action(written: str, executed: str) -> None:
    """Spaces, case and the final period do not make another action; the form is stable."""
    assert normalise_action(written) == executed
    assert normalise_action(executed) == executed


def test_wordings_convert_into_each_other() -> None:
    """Both directions undo each other, and classic is the text of alfworld 0.3."""
    move = str(load_game(BEDROOM, {})["grammar"])
    classic = normalise_wording(move, "classic")
    assert 'template :: "put {o} in/on {r}";' in classic
    assert "You arrive at {lend.name}. #examineReceptacle.feedback#" in classic
    assert normalise_wording(classic, "move") == move


def test_admissible_actions_when_asked(options: dict[str, Any]) -> None:
    """They are sorted, all of them work, and help is not among them."""
    env = AlfworldEnv({**options, "admissible": True})
    actions = env.reset(SPEC)[1]["admissible_actions"]
    assert list(actions) == sorted(set(actions))
    assert "help" not in actions
    root = env.snapshot()
    for action in actions:
        assert env.step(action)[4]["valid"], action
        env.restore(root)
    env.close()


def test_classic_wording_in_play(options: dict[str, Any]) -> None:
    """The observations and commands of alfworld 0.3: locations are numbered, things are put in/on."""
    env = AlfworldEnv({**options, "wording": "classic", "admissible": True})
    env.reset(SPEC)
    observation, *_ = env.step("go to desk 1")
    assert observation.startswith("You arrive at loc ")
    taken = next(a for a in env.step("look")[4]["admissible_actions"] if a.startswith("take ")).split()
    actions = env.step(" ".join(taken))[4]["admissible_actions"]
    assert f"put {taken[1]} {taken[2]} in/on desk 1" in actions
    assert not any(action.startswith("move ") for action in actions)
    env.close()
