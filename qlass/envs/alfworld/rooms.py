"""The 120 rooms of ALFRED as far as the alfworld wheel knows them, and the wheel's tables of classes.

The wheel's files are read in place, without `import alfworld`: that import creates `~/.cache/alfworld` and sets the
environment variable ALFWORLD_DATA.

Source: alfworld 0.4.2, `gen/layouts/`, `gen/constants.py`, `gen/goal_library.py` (MIT).
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import random
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

from qlass.errors import DependencyNotInstalled, EnvironmentFault

GRID = 0.25
"""Metres between two neighbouring points where the agent can stand (ALFRED's AGENT_STEP_SIZE)."""

KINDS = ("Kitchen", "LivingRoom", "Bedroom", "Bathroom")
LAMP = "DeskLamp"
"""The only light of the look tasks: floor lamps stand on no receptacle, and the engine then refuses to use them."""

_LAMP_STANDS = ("Desk", "SideTable", "Dresser", "DiningTable", "CoffeeTable", "Shelf", "CounterTop")
_BURNERS = 4
_HORIZON = 30


@dataclass(frozen=True, slots=True)
class Receptacle:
    """A place that holds objects.

    Attributes:
        kind: class name, for example `CounterTop`.
        thor_id: identifier in THOR's form, `Kind|x|y|z` with an optional part name.
        location: where the agent stands when it is at the receptacle, `loc|x|z|rotation|horizon`.
    """

    kind: str
    thor_id: str
    location: str


@dataclass(frozen=True, slots=True)
class Room:
    """One floor plan.

    Attributes:
        scene: number of the floor plan.
        kind: Kitchen, LivingRoom, Bedroom or Bathroom.
        receptacles: fixed receptacles in the order of their ids.
        pickable: sorted object classes that occur here and can stand on at least one receptacle.
        lamp_stand: the receptacle with the desk lamp, None where the room has no lamp.
        starts: locations with no receptacle; the agent starts at one of them.
    """

    scene: int
    kind: str
    receptacles: tuple[Receptacle, ...]
    pickable: tuple[str, ...]
    lamp_stand: Receptacle | None
    starts: tuple[str, ...]


@cache
def wheel() -> Path:
    """Return the folder of the installed alfworld package.

    Raises:
        DependencyNotInstalled: alfworld is not installed.
    """
    found = importlib.util.find_spec("alfworld")
    if found is None or not found.submodule_search_locations:
        raise DependencyNotInstalled("the ALFWorld environment needs alfworld: pip install qlass[alfworld]")
    return Path(found.submodule_search_locations[0])


@cache
def _module(name: str) -> ModuleType:
    """Execute one data module of the wheel on its own, so that the package around it is not imported."""
    path = wheel() / "gen" / f"{name}.py"
    found = importlib.util.spec_from_file_location(f"_qlass_alfworld_{name}", path)
    if found is None or found.loader is None or not path.is_file():
        raise EnvironmentFault(f"{path}: not found; qlass needs alfworld 0.4.x, run pip install qlass[alfworld]")
    module = importlib.util.module_from_spec(found)
    found.loader.exec_module(module)
    return module


@cache
def allowed() -> dict[str, frozenset[str]]:
    """Return receptacle class -> object classes it may hold (VAL_RECEPTACLE_OBJECTS, fixed receptacles only)."""
    constants = _module("constants")
    movable = constants.MOVABLE_RECEPTACLES_SET
    table = constants.VAL_RECEPTACLE_OBJECTS
    return {
        kind: frozenset(name for name in table[kind] if not name.endswith("Sliced"))
        for kind in sorted(table)
        if kind not in movable
    }


@cache
def affordance(name: str) -> frozenset[str]:
    """Return the object classes that are Heatable, Coolable, Cleanable, Toggleable or Sliceable."""
    return frozenset(_module("constants").VAL_ACTION_OBJECTS[name])


@cache
def openable_kinds() -> frozenset[str]:
    """Return the receptacle classes that can be closed."""
    return frozenset(_module("constants").OPENABLE_CLASS_SET)


@cache
def movable_kinds() -> frozenset[str]:
    """Return the object classes that can hold other objects (bowl, mug, ...)."""
    return frozenset(_module("constants").MOVABLE_RECEPTACLES_SET)


@cache
def goals() -> dict[str, Any]:
    """Return ALFRED's goal library: task type -> {"pddl": text, "templates": sentences}."""
    library: dict[str, Any] = _module("goal_library").gdict
    return library


@cache
def scenes() -> tuple[int, ...]:
    """Return the numbers of all floor plans, ascending."""
    return tuple(sorted(number for kind in KINDS for number in _module("constants").SCENE_TYPE[kind]))


def room_kind(scene: int) -> str:
    """Return Kitchen, LivingRoom, Bedroom or Bathroom; raise EnvironmentFault for an unknown scene."""
    for kind in KINDS:
        if scene in _module("constants").SCENE_TYPE[kind]:
            return kind
    raise EnvironmentFault(f"scene={scene!r} is not a floor plan; allowed are 1-30, 201-230, 301-330, 401-430")


def stable_rng(*parts: object) -> random.Random:
    """Return a generator seeded by the JSON text of `parts`; the same on every machine and in every process."""
    text = json.dumps(parts, sort_keys=True)
    return random.Random(int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "big"))


def location(x: float, z: float, rotation: int, horizon: int) -> str:
    """Return ALFRED's name of a stand point."""
    return f"loc|{round(x / GRID)}|{round(z / GRID)}|{rotation // 90 % 4}|{horizon}"


@cache
def load_room(scene: int) -> Room:
    """Read a floor plan from the wheel; the same scene always gives the same room.

    *Differs from ALFRED:* a receptacle that the wheel stores no stand point for (coffee machine, stove burner, garbage
    can, towel holders) is added at an invented one, fixed per scene.
    """
    kind = room_kind(scene)
    folder = wheel() / "gen" / "layouts"
    classes = frozenset(json.loads((folder / f"FloorPlan{scene}-objects.json").read_text(encoding="utf-8")))
    stored = json.loads((folder / f"FloorPlan{scene}-openable.json").read_text(encoding="utf-8"))
    points = _reachable(folder / f"FloorPlan{scene}-layout.npy")
    receptacles = [_stored_receptacle(thor_id, place) for thor_id, place in sorted(stored.items())]
    receptacles += _invented(scene, classes, receptacles, points)
    receptacles.sort(key=lambda receptacle: receptacle.thor_id)
    here = {receptacle.kind for receptacle in receptacles}
    pickable = {name for place in sorted(here) for name in allowed()[place]} & classes
    taken = {receptacle.location for receptacle in receptacles}
    starts = [location(x, z, 90 * turn, _HORIZON) for x, z in points for turn in range(4)]
    return Room(
        scene=scene,
        kind=kind,
        receptacles=tuple(receptacles),
        pickable=tuple(sorted(pickable)),
        lamp_stand=_lamp_stand(receptacles) if LAMP in classes else None,
        starts=tuple(start for start in starts if start not in taken),
    )


def _reachable(path: Path) -> list[tuple[float, float]]:
    """Return the reachable (x, z) points of a floor plan, sorted."""
    import numpy as np  # the file is a NumPy array; nothing else here needs numpy

    return sorted((float(x), float(z)) for x, z in np.load(path))


def _stored_receptacle(thor_id: str, place: Sequence[float]) -> Receptacle:
    x, z, rotation, horizon = place
    parts = thor_id.split("|")
    if parts[0] == "Bathtub":  # FloorPlan420 calls the basin of its bathtub "SinkBasin"
        thor_id = "|".join([*parts[:4], "BathtubBasin"])
    kind = thor_id.split("|")[4] if len(parts) > 4 else parts[0]
    return Receptacle(kind, thor_id, location(x, z, int(rotation), int(horizon)))


def _invented(
    scene: int, classes: frozenset[str], known: Sequence[Receptacle], points: Sequence[tuple[float, float]]
) -> list[Receptacle]:
    """Add what the scene has but the wheel stores no stand point for, each at a point of its own."""
    taken = {tuple(receptacle.location.split("|")[1:3]) for receptacle in known}
    free = [point for point in points if tuple(location(*point, 0, 0).split("|")[1:3]) not in taken]
    missing = sorted((classes & allowed().keys()) - {receptacle.kind for receptacle in known})
    added = []
    for kind in missing:
        rng = stable_rng("stand point", scene, kind)
        x, z = free[rng.randrange(len(free))]
        neighbours = sorted(free, key=lambda point: (abs(point[0] - x) + abs(point[1] - z), point))
        for point in neighbours[: _BURNERS if kind == "StoveBurner" else 1]:
            free.remove(point)
            base, part = (kind.removesuffix("Basin"), f"|{kind}") if kind.endswith("Basin") else (kind, "")
            thor_id = f"{base}|{point[0]:+06.2f}|+00.90|{point[1]:+06.2f}{part}"
            added.append(Receptacle(kind, thor_id, location(*point, 90 * rng.randrange(4), _HORIZON)))
    return added


def _lamp_stand(receptacles: Sequence[Receptacle]) -> Receptacle | None:
    """Return the first receptacle of the likeliest class; a lamp is never moved, so this is fixed per room."""
    for kind in _LAMP_STANDS:
        for receptacle in receptacles:
            if receptacle.kind == kind:
                return receptacle
    return None
