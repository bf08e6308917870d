"""SFT: the base policy imitates the expert (paper section 3.1, Table 5)."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import TypeVar

from qlass.recipes.imitation import imitate
from qlass.recipes.recipe import Ingredients, PolicyResult, Recipe
from qlass.seeds import derive_seed
from qlass.settings import Share, Trajectories, first
from qlass.training.objectives.sft import SftSettings

T = TypeVar("T")


class SftRecipe(SftSettings):
    """Policy `sft`: behaviour cloning of the base policy on the expert's trajectories."""

    share: Share
    """Share of the expert's trajectories that there are, drawn at random from `base.seed`, for example 0.5 (the paper's
    Table 3); 1.0: all."""
    trajectories: Trajectories | None
    """Of those, trajectories to learn from, the first ones; null: all."""

    def chosen(self, items: Sequence[T], seed: int, key: str, what: str) -> Sequence[T]:
        """Return the items to learn from.

        Args:
            items: all that there are.
            seed: of the draw.
            key: of the setting `trajectories`.
            what: what the items are.

        Raises:
            SettingsError: more are asked for than the share has.
        """
        of = "" if self.share == 1 else f", a share of {self.share:g}"
        return first(drawn(items, self.share, seed), self.trajectories, key, f"{what}{of}")


def drawn(items: Sequence[T], share: float, seed: int) -> Sequence[T]:
    """Draw a share of some items, at least one; they keep their order.

    *Differs from the released code*, which takes the first 1,000 of a sorted list for Table 3.

    Args:
        items: all that there are.
        share: of them, in (0, 1].
        seed: of the draw.
    """
    count = max(1, round(share * len(items)))
    numbers = random.Random(derive_seed(seed, "share")).sample(range(len(items)), count)
    return [items[number] for number in sorted(numbers)]


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
        trajectories = settings.chosen(trajectories, given.seed, key, "tasks that the expert solved")
    return imitate(given, settings, trajectories)


RECIPE = Recipe(title="SFT", settings=SftRecipe, make=make)
