"""Can a goal be reached? The target with its own options must score 1.0; how many other products do as well?"""

from __future__ import annotations

from collections.abc import Sequence

from qlass.envs.webshop.catalogue import Catalogue, Product
from qlass.envs.webshop.goals import Goal
from qlass.envs.webshop.nouns import Nouns
from qlass.envs.webshop.reward import matches, normalize_color, reward


def own_options(goal: Goal, product: Product) -> dict[str, str]:
    """Return the wanted values that a product offers, by the name of their group."""
    wanted = goal.option_values
    return {name: value for name, values in product.options for value in values if value in wanted}


def best_options(goal: Goal, product: Product) -> dict[str, str]:
    """Return for each group of a product the first value that counts as one of the wanted ones, and no other group."""
    return {
        name: value
        for name, values in product.options
        if (value := next((value for value in values if _counts(value, goal.options)), None)) is not None
    }


def is_solvable(goal: Goal, catalogue: Catalogue, nouns: Nouns) -> bool:
    """Return whether the target with its own options scores 1.0."""
    target = catalogue.by_asin[goal.asin]
    return reward(goal, target, own_options(goal, target), nouns).total == 1.0


def n_solutions(goal: Goal, catalogue: Catalogue, nouns: Nouns) -> int:
    """Return how many products score 1.0 with the best of their options; 1 is the target alone."""
    return sum(_scores_one(goal, product, nouns) for product in catalogue.products)


def _scores_one(goal: Goal, product: Product, nouns: Nouns) -> bool:
    if product.price > goal.price_upper:
        return False
    bare = reward(goal, product, {}, nouns)  # options last: they take the most time
    if bare.r_type < 1.0 or bare.n_attributes < len(goal.attributes):
        return False
    return reward(goal, product, best_options(goal, product), nouns).total == 1.0


def _counts(value: str, wanted: Sequence[str | tuple[str, str]]) -> bool:
    return any(matches(normalize_color(value), normalize_color(option)) for option in wanted)
