"""The base policy as it is: nothing is trained."""

from __future__ import annotations

import os
import shutil

from qlass.jsonl import write_json
from qlass.recipes.recipe import Ingredients, PolicyResult, Recipe
from qlass.settings import Section


class BaseSettings(Section):
    """Policy `base`: nothing is trained, and there is nothing to set; `base.source` says which model it is."""


def make(given: Ingredients, _: BaseSettings) -> PolicyResult:
    """Write a pointer to the base policy."""
    shutil.rmtree(given.out_dir, ignore_errors=True)
    source = os.path.relpath(given.base, given.out_dir)
    write_json(given.out_dir / "pointer.json", {"source": source, "revision": None})
    return PolicyResult({"steps": 0})


RECIPE = Recipe(title="Base", settings=BaseSettings, make=make)
