"""Panels of WebShop: which goals belong to train, dev, test_seen and test_unseen, in a fixed order.

Generated catalogue: a family of products belongs to one split as a whole, so no test task asks for a sibling of a
product of training. test_unseen has product types of its own. Which split a family is in depends on its number alone,
never on the seed of the panel or the size of the catalogue. Categories take turns, and every family comes once before
any comes twice.

Original data: upstream's ranges of goal numbers, or lists from a file (ETO's, say), in their order. Goals that even the
target cannot solve are left out everywhere.
"""

from __future__ import annotations

import hashlib
import json
import logging
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from functools import lru_cache
from itertools import zip_longest
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from qlass.envs.webshop.generate import generate
from qlass.envs.webshop.generate.families import Product
from qlass.envs.webshop.generate.vocabulary import CATEGORIES, vocabulary
from qlass.envs.webshop.options import Options, open_shop
from qlass.envs.webshop.solvable import is_solvable
from qlass.envs.webshop.state import Shop
from qlass.errors import DataError, SettingsError
from qlass.jsonl import read_json
from qlass.records import TaskSpec
from qlass.seeds import derive_seed
from qlass.validation import problems

SPLITS = ("train", "dev", "test_seen", "test_unseen")

RANGES = {"test_seen": (0, 500), "dev": (500, 1500), "train": (1500, None)}
"""Upstream's numbers of human goals: baseline_models/env.py, princeton-nlp/WebShop@64fa2a5 (its eval is our dev)."""

PUBLISHED_TEST = "9fe8ebddd07318b16793ca47afeed40f8f280b58c0b0c6b5570e68d83eadf3b4"
"""SHA-256 of the 200 goals on which ETO and QLASS report, sorted, as JSON: eval_agent/data/webshop/test_indices.json,
Rafa-zy/QLASS@6f2cdf4."""

_SHARES = 8
_DEV, _TEST = 3, 7
"""Of eight families one is dev and one is test_seen."""

_LISTS = TypeAdapter(dict[str, list[int]])
_log = logging.getLogger(__name__)


def panels(options: Mapping[str, Any], split: str, seed: int) -> Iterator[TaskSpec]:
    """Return the TaskSpecs of a split, each checked as it is taken.

    Args:
        options: see `qlass.envs.webshop.options.Options`.
        split: train, dev, test_seen or test_unseen; original data has no test_unseen of its own.
        seed: orders the goals of a generated catalogue inside the split.

    Raises:
        SettingsError: a bad option or split, or too few goals for upstream's ranges.
        DataError: a data file or a list is not what it should be.
    """
    if split not in SPLITS:
        raise SettingsError(f"split={split!r}, allowed are {', '.join(SPLITS)}")
    parsed = Options.of(options)
    if parsed.lists is not None and parsed.data is None:
        raise SettingsError(
            f"webshop options: lists is {parsed.lists!r}, but data is null; lists name goals of original data, set both"
        )
    shop = open_shop(parsed)
    name = _name(parsed, shop)
    if parsed.data is None:
        numbers: Iterable[int] = _ordered(shop, _families(parsed.size, parsed.seed), split, seed)
    elif parsed.lists is not None:
        numbers = _listed(parsed.lists, len(shop.goals), split, leaked=parsed.leaked)
    else:
        numbers = _in_range(len(shop.goals), split)
    return _specs(shop, numbers, name, split)


def split_of(product: Product) -> str:
    """Return the split that a product of a generated catalogue belongs to, with its family."""
    if product.kind.unseen:
        return "test_unseen"
    types = vocabulary().types
    share = (product.family // len(types) + types.index(product.kind)) % _SHARES
    return {_DEV: "dev", _TEST: "test_seen"}.get(share, "train")


def leaks(lists: Mapping[str, Iterable[int]]) -> dict[str, list[int]]:
    """Return by split the goals of dev and tests that are in train too (21 of the 200 in ETO's test list)."""
    train = set(lists.get("train", ()))
    return {split: sorted(train.intersection(lists[split])) for split in lists if split != "train"}


def plays_published(options: Mapping[str, Any]) -> bool:
    """Return whether the tests are those of published results: human goals of original data, all of PUBLISHED_TEST.

    Without `leaked` they are not: 21 of those goals are in train too, and are left out.

    Raises:
        SettingsError: a bad option.
        DataError: a list is not what it should be.
    """
    parsed = Options.of(options)
    if parsed.data is None or parsed.goals != "human" or parsed.lists is None:
        return False
    lists = _read(parsed.lists)
    lost = set() if parsed.leaked else set(leaks(lists).get("test_seen", ()))
    kept = sorted(set(lists.get("test_seen", ())) - lost)
    return hashlib.sha256(json.dumps(kept).encode("ascii")).hexdigest() == PUBLISHED_TEST


def _specs(shop: Shop, numbers: Iterable[int], name: str, split: str) -> Iterator[TaskSpec]:
    """Yield a TaskSpec for each goal that its own target solves."""
    index = 0
    for number in numbers:
        goal = shop.goals[number]
        if is_solvable(goal, shop.catalogue, shop.nouns):
            key = {"shop": name, "goal": number, "asin": goal.asin}
            yield TaskSpec(f"webshop/{split}/{index:05d}", "webshop", split, goal.category, key)
            index += 1


def _name(options: Options, shop: Shop) -> str:
    """Return what tells shops apart: the arguments of the generator, or a digest of all goals."""
    if options.data is None:
        return f"generated size={options.size} seed={options.seed} {options.goals}"
    goals = [[goal.asin, goal.instruction] for goal in shop.goals]
    return f"files {hashlib.sha256(json.dumps(goals).encode('ascii')).hexdigest()[:12]} {options.goals}"


@lru_cache(maxsize=1)
def _families(size: int, seed: int) -> Mapping[str, Product]:
    return generate(size, seed).by_asin()


def _ordered(shop: Shop, families: Mapping[str, Product], split: str, seed: int) -> Iterator[int]:
    """Yield the numbers of a split's goals: categories in turn, in each of them every family before any again."""
    rng = random.Random(derive_seed("webshop panel", split, seed))
    queues = []
    for category in CATEGORIES:
        numbers = [
            number
            for number, goal in enumerate(shop.goals)
            if goal.category == category and split_of(families[goal.asin]) == split
        ]
        rng.shuffle(numbers)
        queues.append(_spread(numbers, [families[shop.goals[number].asin].family for number in numbers]))
    for row in zip_longest(*queues):
        yield from (number for number in row if number is not None)


def _spread(numbers: list[int], families: list[int]) -> list[int]:
    """Return numbers so that every family comes once before any comes twice, and so on."""
    turns: Counter[int] = Counter()
    laps = []
    for family in families:
        laps.append(turns[family])
        turns[family] += 1
    return [number for _, number in sorted(zip(laps, numbers, strict=True), key=lambda entry: entry[0])]


def _in_range(n_goals: int, split: str) -> range:
    """Return the numbers of upstream's ranges."""
    if n_goals <= RANGES["train"][0]:
        raise SettingsError(
            f"webshop options: the data has {n_goals} goals, upstream's ranges need more than {RANGES['train'][0]}; set "
            "lists to a JSON file with lists of goal numbers, or goals to the other kind"
        )
    if split not in RANGES:
        raise SettingsError(f"split={split!r}: original data has {', '.join(RANGES)}; set lists to name goals of it")
    first, end = RANGES[split]
    return range(first, n_goals if end is None else end)


def _read(path: str) -> dict[str, list[int]]:
    """Return goal numbers by split from a file `{"train": [...], "test_seen": [...]}`."""
    try:
        lists = _LISTS.validate_python(read_json(Path(path)), strict=True)
    except ValidationError as error:
        raise DataError(f"{path}: {problems(error, _LISTS)[0]}") from None
    if unknown := sorted(lists.keys() - set(SPLITS)):
        raise DataError(f"{path}: unknown splits {', '.join(unknown)}; allowed are {', '.join(SPLITS)}")
    return lists


def _listed(path: str, n_goals: int, split: str, *, leaked: bool) -> list[int]:
    """Return a split's numbers from a file of lists."""
    lists = _read(path)
    if split not in lists:
        raise SettingsError(f"split={split!r}: {path} has only {', '.join(lists)}; add a list of goal numbers to it")
    numbers = lists[split]
    if wrong := [number for number in numbers if not 0 <= number < n_goals]:
        raise DataError(f"{path}: {split} has goal {wrong[0]}, the data has goals 0 to {n_goals - 1}")
    lost = set(leaks(lists).get(split, ()))
    if lost:
        _log.warning("split=%s leaked=%d kept=%s: goals that are in train too", split, len(lost), leaked)
    return list(dict.fromkeys(number for number in numbers if leaked or number not in lost))
