"""Games for the ALFWorld engine: generated from a small key, or read from the original download.

A game is the content of a `game.tw-pddl` file: a dict with `pddl_domain`, `grammar` (with the goal sentence),
`pddl_problem`, `solvable` and `walkthrough`; generated games also carry `task_type` and `pddl_params`, as the
`traj_data.json` beside an original game does. The engine takes the dict itself: `PddlEnv.load(game)`.

The problem text follows `scripts/augment_pddl_states.py` of alfworld. *Differs from ALFWorld:* the first state comes
from the tables of the wheel and our placement weights, not from THOR's physics.
"""

from __future__ import annotations

import hashlib
import json
import random
import re
import stat
from collections.abc import Mapping
from functools import cache
from pathlib import Path
from typing import Any

from qlass.envs.alfworld import rooms
from qlass.errors import EnvironmentFault

MAX_INSTANCES = 3
"""Copies of an object class in a room (MAX_NUM_OF_OBJ_INSTANCES)."""

TWO = "pick_two_obj_and_place"
LOOK = "look_at_obj_in_light"
TASK_AFFORDANCE = {
    "pick_clean_then_place_in_recep": "Cleanable",
    "pick_heat_then_place_in_recep": "Heatable",
    "pick_cool_then_place_in_recep": "Coolable",
}
"""What an object class must be for a task type."""

GAME = "game.tw-pddl"
"""Name of a game's file in the original download."""

LARGEST = 64 * 1024**2
"""Bytes of a game file at most; ALFRED's have less than one million."""

REMEDY = (
    "Download it again (alfworld-download), or move its folder out of the data folder and run the stage expert again: "
    "the panels are then made without it"
)
"""What to do about a game that is damaged."""

_TEXTS = ("pddl_domain", "pddl_problem", "grammar")
_NO_TEXT = re.compile("[\0\ud800-\udfff]")
# Tuned to the objects per receptacle in 18 published ReAct prompts of real games: countertop 6.1, diningtable 8.1,
# sidetable 3.6, desk 7.0, sinkbasin 2.3, shelf 1.3, closed ones 1.4 with 41 % empty.
_WEIGHTS = {"CounterTop": 1.7, "DiningTable": 2.4, "CoffeeTable": 1.6, "Desk": 1.6, "Dresser": 1.5, "Bed": 1.3}
_WEIGHTS |= {"SideTable": 1.3}
_WEIGHTS |= {"SinkBasin": 0.9, "Cabinet": 0.8, "Drawer": 0.8, "Fridge": 0.8, "Microwave": 0.8, "Safe": 0.8}
_WEIGHTS |= {"Shelf": 0.7, "GarbageCan": 0.7}
# What has room for one thing only.
_SINGLE = frozenset({"CoffeeMachine", "StoveBurner", "ToiletPaperHanger", "TowelHolder", "HandTowelHolder", "Toaster"})
_PREDICATES = (
    ("Cleanable", "cleanable"),
    ("Heatable", "heatable"),
    ("Coolable", "coolable"),
    ("Toggleable", "toggleable"),
    ("Sliceable", "sliceable"),
)


def load_game(key: Mapping[str, Any], options: Mapping[str, Any]) -> dict[str, Any]:
    """Return the game of a TaskSpec's key.

    Args:
        key: `{"source": "generated", ...}` or `{"source": "files", "path": ..., "sha256": ...}`; the path is relative to
            `json_2.1.1`, and the hash, where there is one, that of the file when the panel was made.
        options: settings of the environment; `data` is the folder that holds `json_2.1.1`.

    Raises:
        EnvironmentFault: the key, the file or the game is not usable.
    """
    if key.get("source") == "generated":
        return generate_game(key)
    if key.get("source") == "files":
        return read_game(str(key["path"]), options, key.get("sha256"))
    raise EnvironmentFault(f"key={dict(key)!r}: source must be 'generated' or 'files'")


def origin(key: Mapping[str, Any], options: Mapping[str, Any]) -> str:
    """Return what to call the game of a key in a message: its file, or how it was generated."""
    if key.get("source") == "files" and options.get("data"):
        return f"game {game_file(options, str(key['path']))}"
    return f"game {dict(key)!r}"


def game_file(options: Mapping[str, Any], path: str = "") -> Path:
    """Return the file of a path relative to `json_2.1.1`, or that folder."""
    return Path(str(options["data"])).expanduser() / "json_2.1.1" / path


def read_game(path: str, options: Mapping[str, Any], sha256: str | None = None) -> dict[str, Any]:
    """Read one game of the original download.

    Args:
        path: relative to `json_2.1.1`.
        options: settings of the environment.
        sha256: what the file must hash to; None for any content.

    Raises:
        EnvironmentFault: no data folder, no such file, a damaged one or another one than before, a game that ALFWorld
            leaves out, or one without solution.
    """
    if not options.get("data"):
        raise EnvironmentFault(f"game {path!r} needs options.data, the folder that `alfworld-download` filled")
    if "movable" in path or "Sliced" in path:
        raise EnvironmentFault(f"game {path!r}: ALFWorld leaves out movable receptacles and sliced objects")
    file = game_file(options, path)
    game, found = parse_game(file)
    if sha256 is not None and found != sha256:
        raise EnvironmentFault(
            f"game {file}: the file has changed since the panels were made: its sha256 is {found}, expected {sha256}. "
            "Put the file back, or run the stage expert again: the panels are then made of what is there now"
        )
    if game is None:
        raise EnvironmentFault(f"game {file}: solvable is false or missing; only solvable games can be played")
    return game


def parse_game(file: Path) -> tuple[dict[str, Any] | None, str]:
    """Return the game of a file, None where ALFWorld leaves it out as unsolvable, and the SHA-256 of the file.

    Raises:
        EnvironmentFault: the file cannot be read, or is no game; the message says what was found.
    """
    content = _content(file)
    if not content:
        raise _damaged(file, "found an empty file")
    try:
        game = json.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as error:
        raise _damaged(file, f"found {len(content):,} bytes that are not JSON ({error})") from error
    if not isinstance(game, dict):
        raise _damaged(file, f"found {_kind(game)}, expected a JSON object")
    solvable = game.get("solvable", False)  # old files may lack it, and ALFWorld leaves these out
    if not isinstance(solvable, bool):
        raise _damaged(file, f"solvable is {_kind(solvable)}, expected true or false")
    for name in _TEXTS if solvable else ():
        if name not in game:
            raise _damaged(file, f"found no {name}, expected the keys solvable, {', '.join(_TEXTS)}")
        text = game[name]
        if not isinstance(text, str) or not text.strip():
            raise _damaged(file, f"{name} is {_kind(text)}, expected a text")
        if _NO_TEXT.search(text):
            raise _damaged(file, f"{name} holds characters that no text has (NUL, or half of a surrogate pair)")
    return game if solvable else None, hashlib.sha256(content).hexdigest()


def brief(error: BaseException) -> str:
    """Return an error in one line; parsers quote what they could not read, however long it is."""
    text = " ".join(f"{type(error).__name__}: {error}".split())
    return text if len(text) <= 200 else f"{text[:200]}..."


def _content(file: Path) -> bytes:
    """Read a game file; what is no file is not waited for (a pipe never ends), and of a huge one nothing is read."""
    try:
        found = file.stat()
        if not stat.S_ISREG(found.st_mode):
            raise _damaged(file, "found something else than a file")
        if found.st_size > LARGEST:
            raise _damaged(file, f"found {found.st_size:,} bytes, expected at most {LARGEST:,}")
        return file.read_bytes()
    except FileNotFoundError as error:
        link = f" (a link to {file.readlink()}, which is not there)" if file.is_symlink() else ""
        raise EnvironmentFault(f"game {file}: no such file{link}. {REMEDY}") from error
    except (OSError, ValueError) as error:  # ValueError: a NUL in the path
        raise _damaged(file, f"it cannot be read ({error})") from error


def _damaged(file: Path, found: str) -> EnvironmentFault:
    return EnvironmentFault(f"game {file}: {found}. {REMEDY}")


def _kind(value: object) -> str:
    """Say what kind of JSON value something is."""
    if isinstance(value, str) and not value.strip():
        return "an empty text"
    if value is None:
        return "null"
    names = {dict: "an object", list: "a list", str: "a text", bool: "true or false"}
    return names.get(type(value), "a number")


def generate_game(key: Mapping[str, Any]) -> dict[str, Any]:
    """Build the game of a key; equal keys give equal games on every machine.

    Args:
        key: scene, task_type, object, receptacle (empty for look), toggle (`DeskLamp` for look, else empty), seed.

    Raises:
        EnvironmentFault: the room cannot hold this task.
    """
    room = rooms.load_room(int(key["scene"]))
    if not is_possible(room, str(key["task_type"]), str(key["object"]), str(key["receptacle"])):
        raise EnvironmentFault(f"key={dict(key)!r}: floor plan {room.scene} cannot hold this task")
    rng = rooms.stable_rng("game", dict(key))
    names = {"obj": str(key["object"]), "recep": str(key["receptacle"]), "toggle": str(key["toggle"])}
    goal = rooms.goals()[key["task_type"]]
    template = str(goal["templates"][rng.randrange(len(goal["templates"]))])
    sentence = template.format(**{name: value.lower() for name, value in names.items()})
    domain, grammar = _engine_texts()
    return {
        "pddl_domain": domain,
        "grammar": grammar.replace("UNKNOWN GOAL", sentence),
        "pddl_problem": _problem(room, key, rng, goal["pddl"].format(**names).replace("#", "-")),
        "solvable": True,
        "walkthrough": None,
        "task_type": key["task_type"],
        "pddl_params": {
            "object_target": names["obj"],
            "parent_target": names["recep"],
            "toggle_target": names["toggle"],
            "mrecep_target": "",
            "object_sliced": False,
        },
    }


def is_possible(room: rooms.Room, task_type: str, target: str, receptacle: str) -> bool:
    """Say whether a room can hold a task: everything it needs is there, and the target can start elsewhere."""
    kinds = {place.kind for place in room.receptacles}
    if target not in room.pickable or task_type not in rooms.goals():
        return False
    if task_type == LOOK:
        return room.lamp_stand is not None and not receptacle
    if task_type in TASK_AFFORDANCE:
        tool = {"Cleanable": "SinkBasin", "Heatable": "Microwave", "Coolable": "Fridge"}[TASK_AFFORDANCE[task_type]]
        affordable = target in rooms.affordance(TASK_AFFORDANCE[task_type]) and tool in kinds
        if not affordable or receptacle == tool:  # ALFRED has no "heat and put in the microwave"
            return False
    elsewhere = [kind for kind in kinds - {receptacle} if target in rooms.allowed()[kind]]
    spots = sum(place.kind in elsewhere and (place.kind not in _SINGLE) for place in room.receptacles)
    return receptacle in kinds and target in rooms.allowed()[receptacle] and spots > 0


@cache
def _engine_texts() -> tuple[str, str]:
    """Return the wheel's PDDL domain and text grammar."""
    data = rooms.wheel() / "data"
    return (data / "alfred.pddl").read_text(encoding="utf-8"), (data / "alfred.twl2").read_text(encoding="utf-8")


def _place(room: rooms.Room, key: Mapping[str, Any], rng: random.Random) -> list[tuple[str, rooms.Receptacle]]:
    """Draw the objects of a game: (class, where it stands), the target class first."""
    target = str(key["object"])
    counts = {target: rng.randrange(2 if key["task_type"] == TWO else 1, MAX_INSTANCES + 1)}
    counts |= {name: rng.randrange(1, MAX_INSTANCES + 1) for name in room.pickable if name != target}
    placed: list[tuple[str, rooms.Receptacle]] = []
    full: set[str] = set()
    for name, count in counts.items():
        for _ in range(count):
            spots = [spot for spot in room.receptacles if name in rooms.allowed()[spot.kind]]
            spots = [spot for spot in spots if spot.thor_id not in full]
            if name == target:  # else the goal, or half of it, could hold at the start
                spots = [spot for spot in spots if spot.kind != key["receptacle"]]
            if not spots:
                continue
            spot = rng.choices(spots, [_WEIGHTS.get(spot.kind, 1.0) for spot in spots])[0]
            placed.append((name, spot))
            if spot.kind in _SINGLE:
                full.add(spot.thor_id)
    if room.lamp_stand is not None:
        placed.append((rooms.LAMP, room.lamp_stand))
    return placed


def _object_ids(placed: list[tuple[str, rooms.Receptacle]], rng: random.Random) -> list[str]:
    """Give every object an id in THOR's form, near its receptacle; the engine numbers objects by these ids."""
    ids: list[str] = []
    for name, spot in placed:
        x, y, z = (float(part) for part in spot.thor_id.split("|")[1:4])
        while (thor_id := _near(name, x, y, z, rng)) in ids:
            pass
        ids.append(thor_id)
    return ids


def _near(name: str, x: float, y: float, z: float, rng: random.Random) -> str:
    x, z = x + rng.uniform(-0.3, 0.3), z + rng.uniform(-0.3, 0.3)
    return f"{name}|{x:+06.2f}|{y + 0.05:+06.2f}|{z:+06.2f}"


def _mangle(thor_id: str) -> str:
    """Write a THOR id as a PDDL name; the engine's Demangler turns it back into `cup 2`."""
    for sign, word in (("-", "_minus_"), ("|", "_bar_"), ("+", "_plus_"), (".", "_dot_"), (",", "_comma_")):
        thor_id = thor_id.replace(sign, word)
    return thor_id


def _problem(room: rooms.Room, key: Mapping[str, Any], rng: random.Random, goal: str) -> str:
    """Write the PDDL problem; `goal` also closes its last bracket."""
    placed = _place(room, key, rng)
    ids = [_mangle(thor_id) for thor_id in _object_ids(placed, rng)]
    start = room.starts[rng.randrange(len(room.starts))]
    classes = dict.fromkeys(name for name, _ in placed)
    kinds = sorted({spot.kind for spot in room.receptacles})
    places = sorted({start} | {spot.location for spot in room.receptacles})
    names = ["agent1 - agent"]
    names += [f"{name}Type - otype" for name in classes]
    names += [f"{kind}Type - rtype" for kind in kinds]
    names += [f"{thor_id} - object" for thor_id in ids]
    names += [f"{_mangle(spot.thor_id)} - receptacle" for spot in room.receptacles]
    names += [f"{_mangle(place)} - location" for place in places]
    facts = [f"(atLocation agent1 {_mangle(start)})"]
    for kind in kinds:
        facts += [f"(canContain {kind}Type {name}Type)" for name in classes if name in rooms.allowed()[kind]]
    for spot in room.receptacles:
        facts += _receptacle_facts(spot)
    for thor_id, (name, spot) in zip(ids, placed, strict=True):
        facts += _object_facts(thor_id, name, spot)
    body = "\n  ".join
    return (
        f"(define (problem plan_trial_{key['seed']})\n(:domain alfred)\n"
        f"(:objects\n  {body(names)}\n)\n(:init\n  {body(facts)}\n)\n{goal}"
    )


def _receptacle_facts(spot: rooms.Receptacle) -> list[str]:
    name = _mangle(spot.thor_id)
    facts = [f"(receptacleType {name} {spot.kind}Type)", f"(receptacleAtLocation {name} {_mangle(spot.location)})"]
    return facts + ([f"(openable {name})"] if spot.kind in rooms.openable_kinds() else [])


def _object_facts(thor_id: str, name: str, spot: rooms.Receptacle) -> list[str]:
    facts = [f"(objectType {thor_id} {name}Type)", f"(inReceptacle {thor_id} {_mangle(spot.thor_id)})"]
    facts.append(f"(objectAtLocation {thor_id} {_mangle(spot.location)})")
    facts += [f"({fact} {thor_id})" for table, fact in _PREDICATES if name in rooms.affordance(table)]
    facts += [f"(pickupable {thor_id})"] if name != rooms.LAMP else []
    return facts + ([f"(isReceptacleObject {thor_id})"] if name in rooms.movable_kinds() else [])
