"""SFT: the base policy imitates the expert (paper section 3.1, Table 5)."""

from __future__ import annotations

from qlass.recipes.imitation import imitate
from qlass.recipes.recipe import Ingredients, PolicyResult, Recipe
from qlass.settings import Trajectories, first
from qlass.training.objectives.sft import SftSettings


class SftRecipe(SftSettings):
    """Policy `sft`: behaviour cloning of the base policy on the expert's trajectories."""

    trajectories: Trajectories | None
    """Expert trajectories to learn from, the first ones; null: all."""


def make(given: Ingredients, settings: SftRecipe) -> PolicyResult:
    """Imitate the first trajectories of the expert.

    Raises:
        SettingsError: more trajectories are asked for than there are.
        DataError: no trajectory, or one without a supervised token.
        ModelMismatch: the tokenizer does not fit the model or the chat format.
    """
    trajectories = given.expert()
    if trajectories:
        key = f"recipes.{given.name}.trajectories"
        trajectories = first(trajectories, settings.trajectories, key, "tasks that the expert solved")
    return imitate(given, settings, trajectories)


RECIPE = Recipe(title="SFT", settings=SftRecipe, make=make)
