"""Panels of ScienceWorld: which variations of which types belong to train, dev, test_seen and test_unseen.

The package divides the variations of a type into a train, a dev and a test block. From these, by type:

test_unseen  the first ten of the test block: the 211 tasks of the paper's repository, exactly, in the pool `full`
test_seen    the first ten of the dev block; the paper's repository has a random draw of ten from there
dev          what is left of the dev block; where nothing is left, the last fifth of the train block
train        the first 120 of the train block, without what is dev

No task is in two of them. Which split a task is in depends on nothing else. Types take turns, so that every prefix of
a panel has all of them in equal parts, as long as they last; the seed of the panel orders the variations of train and
dev.

The lists that ETO and QLASS used can be taken from a file (option `lists`): {"train": [["boil", 3], ...], ...}. What a
list of tests has is left out of train and dev then, and counted: 54 of their 194 seen tests are in their train list
too.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import chain, zip_longest
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from qlass.envs.sciworld.options import Options
from qlass.envs.sciworld.tasktypes import TYPES, TaskType, type_named
from qlass.errors import DataError, SettingsError
from qlass.jsonl import read_json
from qlass.records import TaskSpec
from qlass.seeds import derive_seed
from qlass.validation import problems

SPLITS = ("train", "dev", "test_seen", "test_unseen")

TESTS, TRAIN = 10, 120
"""Tasks of a type in each of the tests, and in train, at most."""

PUBLISHED = {
    "test_seen": "d7514001b9fa1a5664cacad3a26060abbdfa3cb0c51d84f1e3834d3fe5bb8035",
    "test_unseen": "879f910d4e77bb701d4004004892cf5557de92d57df254c12b37b2a2cfc5389c",
}
"""SHA-256 of the tasks on which ETO and QLASS report, 194 and 211, sorted, as JSON: dev_indices.json and
test_indices.json in eval_agent/data/sciworld, Yifan-Song793/ETO@a2fc5da."""

Choice = tuple[str, int]
"""Name of a type and number of a variation."""

_LISTS = TypeAdapter(dict[str, list[tuple[str, int]]])
_log = logging.getLogger(__name__)


def panels(options: Mapping[str, Any], split: str, seed: int) -> Iterator[TaskSpec]:
    """Return the TaskSpecs of a split.

    Args:
        options: see `qlass.envs.sciworld.options.Options`.
        split: train, dev, test_seen or test_unseen.
        seed: orders the tasks of train and dev.

    Raises:
        SettingsError: a bad option or split.
        DataError: the file of lists is not what it should be.
    """
    if split not in SPLITS:
        raise SettingsError(f"split={split!r}, allowed are {', '.join(SPLITS)}")
    parsed = Options.of(options)
    if parsed.lists is not None:
        tasks = _listed(_read(parsed.lists), parsed.lists, split)
    else:
        tasks = _interleaved(_of_split(parsed.pool, split, seed))
    return _specs(tasks, split, parsed.containers)


def types_of(pool: str) -> tuple[TaskType, ...]:
    """Return the types of a pool."""
    return tuple(one for one in TYPES if one.paper and (one.short or pool == "full"))


def variations(one: TaskType, split: str) -> Sequence[int]:
    """Return the variations of a type that belong to a split, in order."""
    train, dev, test = one.blocks
    rest = dev[TESTS:]
    borrowed = 0 if rest else max(1, len(train) // 5)
    kept = train[: len(train) - borrowed]
    return {
        "train": kept[:TRAIN],
        "dev": rest or train[len(kept) :],
        "test_seen": dev[:TESTS],
        "test_unseen": test[:TESTS],
    }[split]


def plays_published(options: Mapping[str, Any]) -> bool:
    """Return whether the tests are those of published results: the lists of ETO and QLASS, from a file.

    Raises:
        SettingsError: a bad option.
        DataError: the file of lists is not what it should be.
    """
    parsed = Options.of(options)
    if parsed.lists is None:
        return False
    lists = _read(parsed.lists)
    return all(digest(lists.get(split, [])) == published for split, published in PUBLISHED.items())


def digest(tasks: Iterable[Choice]) -> str:
    """Return the SHA-256 of tasks in any order."""
    return hashlib.sha256(json.dumps(sorted(map(list, tasks))).encode("ascii")).hexdigest()


def _of_split(pool: str, split: str, seed: int) -> Iterator[list[Choice]]:
    """Yield the tasks of each type."""
    for one in types_of(pool):
        numbers = list(variations(one, split))
        if not split.startswith("test"):
            random.Random(derive_seed("sciworld panel", split, seed, one.name)).shuffle(numbers)
        yield [(one.name, number) for number in numbers]


def _interleaved(queues: Iterable[list[Choice]]) -> list[Choice]:
    """Take the first of each queue, then the second, and so on."""
    return [choice for row in zip_longest(*queues) for choice in row if choice is not None]


def _specs(tasks: Iterable[Choice], split: str, containers: str) -> Iterator[TaskSpec]:
    for name, variation in tasks:
        key = {"task": name, "variation": variation, "containers": containers}
        yield TaskSpec(f"sciworld/{split}/{name}-{variation:04d}", "sciworld", split, name, key)


def _read(path: str) -> dict[str, list[Choice]]:
    """Return the tasks by split from a file, with the package's names; each exists, and none is named twice.

    Raises:
        DataError: something else; says where.
    """
    try:
        lists = _LISTS.validate_python(read_json(Path(path)))
    except ValidationError as error:
        raise DataError(f"{path}: {problems(error, _LISTS)[0]}") from None
    if unknown := sorted(lists.keys() - set(SPLITS)):
        raise DataError(f"{path}: unknown splits {', '.join(unknown)}; allowed are {', '.join(SPLITS)}")
    return {split: _checked(tasks, f"{path}: {split}") for split, tasks in lists.items()}


def _checked(tasks: list[Choice], where: str) -> list[Choice]:
    """Return tasks under the package's names."""
    found: dict[Choice, int] = {}
    for place, (name, variation) in enumerate(tasks):
        known = type_named(name)
        if known is None:
            raise DataError(
                f"{where}[{place}]: unknown task {name!r}; allowed are {', '.join(one.name for one in TYPES)}, also "
                "with the prefix `task-N-`"
            )
        if not 0 <= variation < known.variations:
            raise DataError(
                f"{where}[{place}]: {known.name} has no variation {variation}; allowed are 0 to {known.variations - 1}"
            )
        first = found.setdefault((known.name, variation), place)
        if first != place:
            raise DataError(
                f"{where}[{place}]: {known.name} {variation} stands at [{first}] already; name each task once"
            )
    return list(found)


def _listed(lists: Mapping[str, list[Choice]], path: str, split: str) -> list[Choice]:
    """Return a split of a file of lists, without what belongs to a split that goes before it."""
    if split not in lists:
        raise SettingsError(
            f"split={split!r}: {path} has only {', '.join(lists)}; add a list of [task, variation] to it"
        )
    before = SPLITS[SPLITS.index(split) + 1 :]
    taken = set(chain.from_iterable(lists.get(one, ()) for one in before))
    kept = [choice for choice in lists[split] if choice not in taken]
    if lost := len(lists[split]) - len(kept):
        _log.warning("split=%s left_out=%d: tasks that are in %s too", split, lost, " or ".join(before))
    return kept
