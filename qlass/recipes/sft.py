"""SFT: the base policy imitates the expert (paper section 3.1, Table 5)."""

from __future__ import annotations

import random
from collections.abc import Sequence

from qlass.recipes.imitation import imitate
from qlass.recipes.recipe import Ingredients, PolicyResult, Recipe
from qlass.records import Trajectory
from qlass.seeds import derive_seed
from qlass.settings import Share, Trajectories, first
from qlass.training.objectives.sft import SftSettings


class SftRecipe(SftSettings):
    """Policy `sft`: behaviour cloning of the base policy on the expert's trajectories."""

    share: Share
    """Share of the expert's trajectories that there are, drawn at random from `base.seed`, for example 0.5 (the paper's
    Table 3); 1.0: all."""
    trajectories: Trajectories | None
    """Of those, trajectories to learn from, the first ones; null: all."""


def drawn(trajectories: Sequence[Trajectory], share: float, seed: int) -> Sequence[Trajectory]:
    """Draw a share of the trajectories, at least one; they keep their order.

    *Differs from the released code*, which takes the first 1,000 of a sorted list for Table 3.

    Args:
        trajectories: all that there are.
        share: of them, in (0, 1].
        seed: of the draw.
    """
    count = max(1, round(share * len(trajectories)))
    chosen = random.Random(derive_seed(seed, "share")).sample(range(len(trajectories)), count)
    return [trajectories[number] for number in sorted(chosen)]


def make(given: Ingredients, settings: SftRecipe) -> PolicyResult:
    """Imitate trajectories of the expert.

    Raises:
        SettingsError: more trajectories are asked for than there are.
        DataError: no trajectory, or one without a supervised token.
        ModelMismatch: the tokenizer does not fit the model or the chat format.
    """
    trajectories = given.expert()
    if trajectories:
        key = f"recipes.{given.name}.trajectories"
        trajectories = drawn(trajectories, settings.share, given.seed)
        of = "" if settings.share == 1 else f", a share of {settings.share:g}"
        trajectories = first(trajectories, settings.trajectories, key, f"tasks that the expert solved{of}")
    return imitate(given, settings, trajectories)


RECIPE = Recipe(title="SFT", settings=SftRecipe, make=make)
