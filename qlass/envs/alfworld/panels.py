"""Panels of ALFWorld: which games belong to train, dev, test_seen and test_unseen, in a fixed order.

Generated games: a task is a tuple (task type, object, receptacle, scene). Each tuple of the training rooms belongs to
exactly one of train, dev and test_seen, by a hash of the tuple alone, so panels are disjoint whatever prefix is taken
and whatever the seed. test_unseen has rooms of its own. The mix of tasks and rooms is ALFRED's, in every prefix.

Original games (`options["data"]`): the folder tree of `alfworld-download`, filtered as ALFWorld does.
"""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from functools import cache
from pathlib import Path
from typing import Any

from qlass.envs.alfworld import games, rooms
from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec

CATEGORIES = {
    "put": "pick_and_place_simple",
    "look": games.LOOK,
    "clean": "pick_clean_then_place_in_recep",
    "heat": "pick_heat_then_place_in_recep",
    "cool": "pick_cool_then_place_in_recep",
    "two": games.TWO,
}
"""TaskSpec.category -> ALFWorld's task type; the only place that states it."""

SPLITS = ("train", "dev", "test_seen", "test_unseen")
UNSEEN_ROOMS = (10, 219, 308, 424)
"""ALFRED's valid_unseen."""
RESERVED_ROOMS = (9, 29, 215, 226, 315, 325, 404, 425)
"""ALFRED's test_unseen; used by no split."""

# Per cent of games by task and room. The margins are those of ALFRED's train set (AgentGym's list of 2,420 ids); how
# put, clean, two and look divide over rooms is our reading of those margins.
_SEEN_MIX = {
    ("put", "Kitchen"): 5.5,
    ("put", "Bathroom"): 6.8,
    ("put", "Bedroom"): 8.5,
    ("put", "LivingRoom"): 7.0,
    ("clean", "Kitchen"): 9.5,
    ("clean", "Bathroom"): 9.0,
    ("heat", "Kitchen"): 13.3,
    ("cool", "Kitchen"): 16.3,
    ("two", "Kitchen"): 2.4,
    ("two", "Bathroom"): 6.2,
    ("two", "Bedroom"): 4.5,
    ("two", "LivingRoom"): 3.0,
    ("look", "Bedroom"): 6.0,
    ("look", "LivingRoom"): 2.1,
}
# Games by task and room, 134 in all. The margins are those of ETO's list of valid_unseen games.
_UNSEEN_MIX = {
    ("put", "Kitchen"): 6.0,
    ("put", "Bathroom"): 6.0,
    ("put", "Bedroom"): 5.0,
    ("put", "LivingRoom"): 7.0,
    ("clean", "Kitchen"): 22.0,
    ("clean", "Bathroom"): 9.0,
    ("heat", "Kitchen"): 23.0,
    ("cool", "Kitchen"): 21.0,
    ("two", "Kitchen"): 5.0,
    ("two", "Bathroom"): 4.0,
    ("two", "Bedroom"): 4.0,
    ("two", "LivingRoom"): 4.0,
    ("look", "Bedroom"): 18.0,
}
# Receptacles that ALFRED never names as a goal.
_NO_GOAL = frozenset({"TowelHolder", "HandTowelHolder", "Toaster", "TVStand", "LaundryHamper"})
# Receptacles with room for one thing: no goal of a pick-two task.
_ONE_THING = frozenset({"CoffeeMachine", "StoveBurner", "ToiletPaperHanger"})
_FOLDERS = {"train": "train", "dev": "train", "test_seen": "valid_seen", "test_unseen": "valid_unseen"}
_DEV_SHARE = 0.05

Choice = tuple[str, str]
"""(object class, goal receptacle class); the receptacle is empty for look."""


def panels(options: Mapping[str, Any], split: str, seed: int) -> Iterator[TaskSpec]:
    """Return the TaskSpecs of a split, built as they are taken.

    Args:
        options: settings of the environment; with `data` set, the original games are used.
        split: train, dev, test_seen or test_unseen.
        seed: chooses and orders games inside the split; it never moves a task to another split.

    Raises:
        EnvironmentFault: unknown split; or a data folder without games or with a damaged one.
    """
    if split not in SPLITS:
        raise EnvironmentFault(f"split={split!r} is unknown; allowed are {', '.join(SPLITS)}")
    if options.get("data"):
        return _original(options, split, seed)
    return _generated(split, seed)


def split_of(task_type: str, target: str, receptacle: str, scene: int) -> str | None:
    """Return the split that a task belongs to, None for the rooms that no split may use."""
    if scene in UNSEEN_ROOMS:
        return "test_unseen"
    if scene in RESERVED_ROOMS:
        return None
    share = _fraction("split", task_type, target, receptacle, scene)
    return "train" if share < 0.8 else "dev" if share < 0.9 else "test_seen"


def _generated(split: str, seed: int) -> Iterator[TaskSpec]:
    """Yield generated games without end."""
    turns: Counter[tuple[str, str]] = Counter()
    mix = _UNSEEN_MIX if split == "test_unseen" else _SEEN_MIX
    for index, (category, kind) in enumerate(_interleave(mix)):
        pool = _pool(split, category, kind)
        scene = _scene(tuple(pool), turns[category, kind], split, seed, category, kind)
        turns[category, kind] += 1
        rng = rooms.stable_rng("panel", split, seed, index)
        targets = sorted({target for target, _ in pool[scene]})  # the object first: all are equally likely
        target = targets[rng.randrange(len(targets))]
        receptacles = [receptacle for name, receptacle in pool[scene] if name == target]
        key = {
            "source": "generated",
            "scene": scene,
            "task_type": CATEGORIES[category],
            "object": target,
            "receptacle": receptacles[rng.randrange(len(receptacles))],
            "toggle": rooms.LAMP if category == "look" else "",
            "seed": rng.randrange(2**31),
        }
        yield _spec(split, index, category, key)


def _spec(split: str, index: int, category: str, key: dict[str, Any]) -> TaskSpec:
    return TaskSpec(f"alfworld/{split}/{index:05d}", "alfworld", split, category, key)


def _interleave(mix: Mapping[tuple[str, str], float]) -> Iterator[tuple[str, str]]:
    """Yield cells so that every prefix is as near to the mix as whole games allow."""
    total = sum(mix.values())
    owed = dict.fromkeys(mix, 0.0)
    while True:
        for cell, share in mix.items():
            owed[cell] += share / total
        cell = max(owed, key=lambda name: round(owed[name], 9))  # the first of equals
        owed[cell] -= 1.0
        yield cell


def _scene(scenes: tuple[int, ...], turn: int, *names: object) -> int:
    """Return the scene of a cell's `turn`-th game: every scene once, in a drawn order, then again in a new order."""
    lap, place = divmod(turn, len(scenes))
    order = list(scenes)
    rooms.stable_rng("scenes", lap, *names).shuffle(order)
    return order[place]


@cache
def _pool(split: str, category: str, kind: str) -> dict[int, tuple[Choice, ...]]:
    """Return scene -> the choices that belong to the split, for scenes that have any."""
    task_type = CATEGORIES[category]
    pool = {}
    for scene in rooms.scenes():
        if rooms.room_kind(scene) != kind or (scene in UNSEEN_ROOMS) != (split == "test_unseen"):
            continue
        choices = _choices(scene, category)
        mine = tuple(choice for choice in choices if split_of(task_type, *choice, scene) == split)
        if mine:
            pool[scene] = mine
    return pool


def _choices(scene: int, category: str) -> list[Choice]:
    """Return what can be asked for in a room, sorted."""
    room = rooms.load_room(scene)
    kinds = {place.kind for place in room.receptacles} - _NO_GOAL
    if category == "look":
        kinds = {""}
    elif category == "two":
        kinds -= _ONE_THING
    return [
        (target, receptacle)
        for target in room.pickable
        for receptacle in sorted(kinds)
        if games.is_possible(room, CATEGORIES[category], target, receptacle)
    ]


def _original(options: Mapping[str, Any], split: str, seed: int) -> Iterator[TaskSpec]:
    """Yield the games of the original download that ALFWorld would play.

    A game that cannot be read is an error and not left out: panels are compared across machines, and must not shrink
    because a disk is full or a download was cut.

    Raises:
        EnvironmentFault: there is no game, or a file is damaged; names it, and says how to go on.
    """
    root = games.game_file(options)
    names = list(_folders(root, _FOLDERS[split]))
    if not names:
        raise EnvironmentFault(
            f"{root / _FOLDERS[split]}: no {games.GAME} below; run alfworld-download, and set options.data to the folder "
            "that holds json_2.1.1"
        )
    if _FOLDERS[split] == "train":  # dev has no folder of its own
        ordered = sorted(names, key=lambda name: _fraction("dev", name))
        first_dev = len(ordered) - round(_DEV_SHARE * len(ordered))
        names = ordered[first_dev:] if split == "dev" else ordered[:first_dev]
    names.sort(key=lambda name: _fraction("order", seed, name))  # by name alone, a prefix would be one task type
    categories = {task_type: category for category, task_type in CATEGORIES.items()}
    index = 0
    for name in names:
        category = categories.get(name.split("/")[1].split("-")[0])
        if not category or not _is_playable(root, name):
            continue
        path = f"{name}/{games.GAME}"
        game, sha256 = games.parse_game(root / path)
        if game is not None:
            yield _spec(split, index, category, {"source": "files", "path": path, "sha256": sha256})
            index += 1


def _folders(root: Path, folder: str) -> Iterator[str]:
    """Yield the folders of games, as paths relative to the root, in alphabetical order."""
    for task in _entries(root / folder):
        for trial in _entries(root / folder / task):
            if games.GAME in _entries(root / folder / task / trial):
                yield f"{folder}/{task}/{trial}"


def _entries(folder: Path) -> list[str]:
    """Return the names in a folder, none for what is a file.

    Raises:
        EnvironmentFault: the folder cannot be read.
    """
    try:
        return sorted(path.name for path in folder.iterdir())
    except NotADirectoryError:
        return []
    except OSError as error:
        raise EnvironmentFault(
            f"{folder}: cannot be read ({error}); run alfworld-download, and set options.data to the folder that holds "
            "json_2.1.1"
        ) from error


def _is_playable(root: Path, name: str) -> bool:
    """Apply the filters of AlfredTWEnv.collect_game_files, but for that of unsolvable games."""
    return "movable" not in name and "Sliced" not in name and "traj_data.json" in _entries(root / name)


def _fraction(*parts: object) -> float:
    """Return a number in [0, 1) fixed by the parts."""
    digest = hashlib.sha256(json.dumps(parts).encode()).digest()
    return int.from_bytes(digest[:6], "big") / 2**48
