"""Generated games of ALFWorld: the same on every machine, sound, and furnished as real ones are."""

from __future__ import annotations

import hashlib
import importlib.util
import json
import os
import re
import subprocess
import sys
from collections import Counter
from itertools import islice
from pathlib import Path
from typing import Any

import pytest

from qlass.envs.alfworld import games, panels, rooms
from qlass.errors import DependencyNotInstalled, EnvironmentFault
from qlass.records import TaskSpec

pytest.importorskip("alfworld", reason="needs the extra alfworld")
pytestmark = pytest.mark.alfworld

REPOSITORY = Path(__file__).parents[2]


def key(task: str, scene: int, seed: int) -> dict[str, Any]:
    """Read `task_type-object-receptacle-toggle`."""
    task_type, target, receptacle, toggle = task.split("-")
    return {
        "source": "generated",
        "scene": scene,
        "task_type": task_type,
        "object": target,
        "receptacle": receptacle,
        "toggle": toggle,
        "seed": seed,
    }


GOLDEN = [
    (
        key("pick_heat_then_place_in_recep-Cup-Fridge-", 10, 123),
        "96ecb80b48dbd94b4af22a0c43e7fbe363301fbc64cc47258421a69868ffdc65",
    ),
    (
        key("look_at_obj_in_light-AlarmClock--DeskLamp", 308, 0),
        "e7e6d1a6ba3cfd3ae4318990d8227d718b3072d7cf0f4e376b6c6440bb6c8ddf",
    ),
    (
        key("pick_two_obj_and_place-SoapBar-Cabinet-", 424, 7),
        "ab2d1fe461a7412e60b49c89a5471312c57f443be9cefb3a3703ff884df4426d",
    ),
    (
        key("pick_and_place_simple-KeyChain-Sofa-", 219, 1),
        "20098b23122fc774d6d7d5cf443379ea08104087d0b2a4b6d0dea5ab8bab2980",
    ),
]


def digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()


def take(split: str, count: int, seed: int = 0) -> list[TaskSpec]:
    return list(islice(panels.panels({}, split, seed), count))


@pytest.mark.parametrize(("game_key", "expected"), GOLDEN)
def test_a_game_is_the_same_for_ever(game_key: dict[str, Any], expected: str) -> None:
    assert digest(games.generate_game(game_key)) == expected
    assert digest(games.load_game(dict(reversed(game_key.items())), {})) == expected  # order of keys does not matter


@pytest.mark.parametrize("hash_seed", ["0", "1", "4242"])
def test_games_and_panels_do_not_depend_on_the_hash_seed(hash_seed: str) -> None:
    code = (
        "import hashlib, json; from itertools import islice; from qlass.envs.alfworld import games, panels\n"
        "specs = [s for n in panels.SPLITS for s in islice(panels.panels({}, n, 3), 12)]\n"
        "value = [[s.task_id, s.category, s.key, games.generate_game(s.key)] for s in specs]\n"
        "print(hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest())"
    )
    environment = {**os.environ, "PYTHONHASHSEED": hash_seed, "PYTHONPATH": str(REPOSITORY)}
    output = subprocess.run(
        [sys.executable, "-c", code], env=environment, check=True, capture_output=True, text=True
    ).stdout
    specs = [spec for split in panels.SPLITS for spec in take(split, 12, seed=3)]
    expected = digest([[s.task_id, s.category, s.key, games.generate_game(s.key)] for s in specs])
    assert output.strip() == expected


def test_generating_does_not_import_alfworld() -> None:
    code = (
        "import sys; from itertools import islice; from qlass.envs.alfworld import games, panels\n"
        "[games.generate_game(s.key) for s in islice(panels.panels({}, 'train', 0), 3)]\n"
        "assert 'alfworld' not in sys.modules and 'textworld' not in sys.modules"
    )
    environment = {**os.environ, "PYTHONPATH": str(REPOSITORY)}
    subprocess.run([sys.executable, "-c", code], env=environment, check=True)


@pytest.mark.parametrize("split", panels.SPLITS)
def test_every_game_is_sound(split: str) -> None:
    for spec in take(split, 80):
        game = games.generate_game(spec.key)
        problem, target = game["pddl_problem"], spec.key["object"]
        assert problem.count("(") == problem.count(")")
        assert "UNKNOWN GOAL" not in game["grammar"]
        assert target.lower() in game["grammar"].split("Your task is to: ")[1].split('"')[0]
        assert game["solvable"] is True
        assert game["walkthrough"] is None
        assert game["task_type"] == panels.CATEGORIES[spec.category]
        declared = [line.split()[0] for line in problem.partition("(:init")[0].splitlines() if " - " in line]
        assert len(declared) == len(set(declared))
        count = problem.count(f" {target}Type)\n  (inReceptacle")
        assert (2 if spec.category == "two" else 1) <= count <= games.MAX_INSTANCES


def placed(spec: TaskSpec) -> list[tuple[str, str]]:
    """Read from a game's problem what lies where: (class of the object, class of its receptacle)."""
    facts = games.generate_game(spec.key)["pddl_problem"].partition("(:goal")[0]
    kinds = dict(re.findall(r"\(receptacleType (\S+) (\w+)Type\)", facts))
    found = re.findall(r"\(inReceptacle (\S+) (\S+)\)", facts)
    return [(name.partition("_bar_")[0], kinds[receptacle]) for name, receptacle in found]


def test_the_target_never_starts_where_it_belongs() -> None:
    for spec in take("train", 200):
        found = placed(spec)
        assert spec.key["object"] in dict(found)
        for name, kind in found:
            assert kind in rooms.allowed()
            assert name == rooms.LAMP or name in rooms.allowed()[kind]
            assert name != spec.key["object"] or kind != spec.key["receptacle"]


def test_objects_lie_as_in_real_games() -> None:
    """The targets are the means over 18 published ReAct prompts."""
    seen: Counter[str] = Counter()
    places: Counter[str] = Counter()
    for spec in take("train", 200):
        places.update(spot.kind for spot in rooms.load_room(spec.key["scene"]).receptacles)
        seen.update(kind for _, kind in placed(spec))
    for kind, mean in {"CounterTop": 6.1, "DiningTable": 8.1, "Desk": 7.0, "SideTable": 3.6, "Shelf": 1.3}.items():
        assert seen[kind] / places[kind] == pytest.approx(mean, rel=0.25), kind


def test_all_rooms_load() -> None:
    assert len(rooms.scenes()) == 120
    for scene in rooms.scenes():
        room = rooms.load_room(scene)
        ids = [spot.thor_id for spot in room.receptacles]
        assert len(ids) == len(set(ids))
        assert room.starts
        assert {"Sink", "Bathtub"}.isdisjoint(spot.kind for spot in room.receptacles)
    assert rooms.load_room(420).receptacles[0].kind == "BathtubBasin"


@pytest.mark.parametrize(
    "changes",
    [
        {"object": "Laptop"},
        {"receptacle": "Microwave"},
        {"receptacle": "Sofa"},
        {"task_type": "juggle"},
        {"scene": 99},
    ],
)
def test_an_impossible_key_is_refused(changes: dict[str, Any]) -> None:
    with pytest.raises(EnvironmentFault, match=r"scene|cannot hold"):
        games.generate_game({**GOLDEN[0][0], **changes})


def test_an_unknown_source_is_refused() -> None:
    with pytest.raises(EnvironmentFault, match="source must be"):
        games.load_game({"source": "cloud"}, {})


def test_missing_alfworld_names_the_extra(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(DependencyNotInstalled, match=r"pip install qlass\[alfworld\]"):
        rooms.wheel.__wrapped__()
