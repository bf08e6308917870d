"""The numbers of the paper, as reported: Table 2 of QLASS (arXiv 2502.02584), mean outcome reward x 100.

Llama-2-7B, original environments. Ours differ in model and games, so the report sets the two apart and never computes
with these.
"""

from __future__ import annotations

from collections.abc import Iterable
from functools import cache

from qlass.methods.base import get_method, method_names
from qlass.recipes.recipe import get_recipe, recipe_names

LABEL = "as reported; Llama-2-7B, original games"

METHOD_NAMES = {
    "gpt_4": "GPT-4",
    "gpt_3_5_turbo": "GPT-3.5-Turbo",
    "reflexion": "Reflexion",
    "base": "Base",
    "sft": "SFT",
    "rft": "RFT",
    "ppo": "PPO",
    "best_of_n": "Best-of-N",
    "eto": "ETO",
    "qlass": "QLASS",
}
"""The rows of the paper's table in its order, with its names."""

ORACLE = "best_of_n"
"""In the paper this method keeps the trajectory with the highest true reward, which no agent can see."""

_COLUMNS = (
    ("webshop", "test_seen"),
    ("scienceworld", "test_seen"),
    ("scienceworld", "test_unseen"),
    ("alfworld", "test_seen"),
    ("alfworld", "test_unseen"),
)

_ROWS = {
    "gpt_4": (63.2, 64.8, 64.4, 42.9, 38.1),
    "gpt_3_5_turbo": (62.4, 16.5, 13.0, 7.9, 10.5),
    "reflexion": (64.2, 60.3, 64.4, 45.7, 55.2),
    "base": (17.9, 3.8, 3.1, 0.0, 0.0),
    "sft": (63.1, 67.4, 53.0, 60.0, 67.2),
    "rft": (63.6, 71.6, 54.3, 62.9, 66.4),
    "ppo": (64.2, 59.4, 51.7, 22.1, 29.1),
    "best_of_n": (67.9, 70.2, 57.6, 62.1, 69.4),
    "eto": (67.4, 73.8, 65.0, 68.6, 72.4),
    "qlass": (70.3, 75.3, 66.4, 77.9, 82.8),
}

REPORTED = {
    (env, split, method): value
    for method, values in _ROWS.items()
    for (env, split), value in zip(_COLUMNS, values, strict=True)
}
"""Mean outcome reward x 100 by (env, split, method id)."""


def family(method: str) -> str:
    """Return the method of the paper that an id belongs to (`best_of_n_qnet`: `best_of_n`), or `other`."""
    matches = [name for name in METHOD_NAMES if method == name or method.startswith((f"{name}_", f"{name}-"))]
    return max(matches, key=len, default="other")


def method_name(method: str) -> str:
    """Return the title that a row's own file gives it; rows that have none here print as in the paper, or as they are."""
    return _titles().get(method, METHOD_NAMES.get(method, method))


@cache
def _titles() -> dict[str, str]:
    """Return the title of every row that a recipe or a method makes."""
    found = {name: get_recipe(name).title for name in recipe_names()}
    for name in method_names():
        method = get_method(name)
        titles = (method.title, *(f"{method.title} ({variant})" for variant in method.variants))
        found |= dict(zip(method.rows(name), titles, strict=True))
    return found


def in_order(methods: Iterable[str]) -> list[str]:
    """Return each method once: in the paper's order with variants behind their method, then the others as they came."""
    ids = [*METHOD_NAMES, "other"]
    places = {method: ids.index(family(method)) for method in methods}
    return sorted(places, key=lambda method: (places[method], method if family(method) != "other" else ""))
