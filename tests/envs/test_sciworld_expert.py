"""The demonstrator of ScienceWorld: golden paths as natural play, and thoughts made of what was read."""

from threading import Timer

import psutil
import pytest

pytest.importorskip("scienceworld", reason="needs the extra sciworld")
pytest.importorskip("py4j", reason="needs the extra sciworld")

from qlass.envs import get_definition
from qlass.envs.core.replay import Replayed
from qlass.envs.sciworld.adapter import SciworldEnv
from qlass.envs.sciworld.expert import SciworldExpert
from qlass.envs.sciworld.golden import GOLDSMITH, animals_in
from qlass.envs.sciworld.tasktypes import TYPES, start_of
from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec
from tasks.playing.demonstrate import play, verify
from tasks.stages.expert import ExpertSetup, start

DEFINITION = get_definition("sciworld")
SHORT = [one.name for one in TYPES if one.short]


def task(name, variation, containers="open"):
    key = {"task": name, "variation": variation, "containers": containers}
    return TaskSpec(f"sciworld/train/{name}-{variation:04d}", "sciworld", "train", name, key)


@pytest.fixture(scope="module")
def env():
    """An engine for all tests; the machine of golden paths ends with them too."""
    engine = SciworldEnv({})
    yield Replayed(engine)
    engine.close()
    GOLDSMITH.close()


def shown(env, spec):
    """Let the expert play; return the trajectory, verified."""
    trajectory = play(env, DEFINITION, spec, seed=0, thoughts=True)
    verify(env, spec, trajectory)
    return trajectory


def test_a_trajectory_word_for_word(env):
    found = shown(env, task("lifespan-longest-lived-then-shortest-lived", 41))
    assert [(step.thought, step.action) for step in found.steps] == [
        ("Where are the animals? outside. I teleport there.", "teleport to outside"),
        ("I am outside. I look around.", "look around"),
        (
            "Which animals are here? baby elephant, baby hedgehog, baby rabbit. Which lives longest? baby elephant. I "
            "focus on it.",
            "focus on baby elephant",
        ),
        (
            "Which animals are here? baby elephant, baby hedgehog, baby rabbit. Which lives shortest? baby hedgehog. "
            "I focus on it.",
            "focus on baby hedgehog",
        ),
    ]
    assert (found.success, found.outcome) == (True, 1.0)


def test_what_is_measured_decides(env):
    """On the golden path's long way the thing cools from 132 to 70 degrees, so its box would be the wrong one."""
    found = shown(env, task("use-thermometer", 30))
    assert found.success
    assert "measures a temperature of 132 degrees" in found.steps[-2].observation
    assert found.steps[-1].thought == (
        "How warm is it? 132. Is 132 above 100? yes. Which box is for above? orange box. I move it there."
    )
    assert found.steps[-1].action == "move unknown substance B to orange box"


def test_another_animal_takes_the_place_of_a_bee(env):
    found = shown(env, task("find-living-thing", 41))
    assert found.success
    assert [step.action for step in found.steps][2:4] == ["focus on crocodile egg", "pick up crocodile egg"]


@pytest.mark.slow
@pytest.mark.parametrize("containers", ["open", "closed"])
@pytest.mark.parametrize("name", SHORT)
def test_every_short_type(env, name, containers):
    found = shown(env, task(name, 2, containers))
    assert found.success
    assert len(found.steps) <= 12
    assert all(step.valid for step in found.steps)
    for step in found.steps:
        assert step.thought.endswith((".", "?"))
        assert len(step.thought) < 200
        assert not step.action.startswith(("open door", "go to"))


def test_after_its_path_it_waits():
    expert = SciworldExpert(task("lifespan-longest-lived", 41), 0)
    actions = [expert.act("Your task is to ...")[1] for _ in range(5)]
    assert actions == ["teleport to outside", "look around", "focus on baby elephant", "wait1", "wait1"]


def test_golden_paths_are_found_again_when_their_machine_ended():
    spec = start_of(task("lifespan-shortest-lived", 41))
    before = GOLDSMITH.path(spec)
    psutil.Process(GOLDSMITH._simulator.pid).kill()
    assert GOLDSMITH.path(spec) == before == ("teleport to outside", "look around", "focus on baby hedgehog")


def test_the_stage_goes_on_when_all_machines_are_killed_at_once():
    work = start(ExpertSetup("sciworld", {}, 15, True, 0))
    tasks = [task("lifespan-longest-lived", variation) for variation in (41, 42, 43)]
    found = work(tasks[:1])
    machines = [child for child in psutil.Process().children() if "java" in child.name()]
    assert len(machines) >= 3  # one plays, one verifies, one finds golden paths
    killer = Timer(0.1, lambda: [one.kill() for one in machines])
    killer.start()
    found += work(tasks[1:])
    killer.join()
    found += work(tasks[1:])  # also where all was done before they were killed
    assert [(one.error, one.trajectory.success) for one in found] == [("", True)] * 5
    assert found[1:3] == found[3:]
    GOLDSMITH.close()


def test_a_task_that_is_none():
    with pytest.raises(EnvironmentFault, match="is no task of ScienceWorld"):
        SciworldExpert(task("boil", 30), 0)


def test_animals_are_named_with_their_age():
    text = "In it: \n\tthe agent\n\tan axe\n\ta adult bee\n\ta giant tortoise egg\n\ta fire pit (containing nothing)\n"
    assert animals_in(text) == ["adult bee", "giant tortoise egg"]
