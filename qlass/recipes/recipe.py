"""What a recipe is; `qlass/recipes/<policy>.py` has one as RECIPE: which data, which objective.

Nothing here and at the top of a recipe's file imports torch: settings are read by programs that do not train.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlass.plugins import load, names
from qlass.records import Trajectory
from qlass.settings import Section

if TYPE_CHECKING:
    from qlass.training.core.checkpoint import LossRow

PACKAGE = "qlass.recipes"
SHARED = {"recipe", "imitation"}
"""Files of the package that are no recipes."""


@dataclass(frozen=True, slots=True)
class Ingredients:
    """What every recipe is given.

    Attributes:
        name: of the policy; seeds are derived from it.
        base: folder of the base policy.
        expert: reads the expert's trajectories.
        instruction: the environment's instruction text.
        chat_format: how messages become tokens.
        max_length: tokens of history and reply together.
        max_new_tokens: tokens of a reply, as when the policy acts: both cut long histories alike.
        seed: of this policy.
        device: auto, cpu or cuda.
        out_dir: the new policy folder; what stands there is replaced.
        work_dir: resume folder of this very run; the caller removes it afterwards.
    """

    name: str
    base: Path
    expert: Callable[[], Sequence[Trajectory]]
    instruction: str
    chat_format: str
    max_length: int
    max_new_tokens: int
    seed: int
    device: str
    out_dir: Path
    work_dir: Path


@dataclass(frozen=True, slots=True)
class PolicyResult:
    """What making a policy reports.

    Attributes:
        metrics: numbers for metrics.json.
        curve: rows of loss.csv; none where nothing was trained.
    """

    metrics: dict[str, float | int | str]
    curve: Sequence[LossRow] = ()


@dataclass(frozen=True, slots=True)
class Recipe:
    """How a policy comes about.

    Attributes:
        title: name of its row in tables.
        settings: its section, `recipes.<policy>` of params.yaml.
        make: writes the policy folder.
    """

    title: str
    settings: type[Section]
    make: Callable[[Ingredients, Any], PolicyResult]


def recipe_names() -> tuple[str, ...]:
    """Return all recipes, nothing of them imported."""
    return tuple(name for name in names(PACKAGE) if name not in SHARED)


def get_recipe(name: str) -> Recipe:
    """Return the recipe of a policy.

    Raises:
        SettingsError: no recipe has this name.
    """
    recipe: Recipe = load(PACKAGE, name, recipe_names(), "RECIPE")
    return recipe
