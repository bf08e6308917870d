"""What the agent is asked to buy: synthetic goals and goals that people wrote, in WebShop's order.

Source: web_agent_site/engine/goal.py and envs/web_agent_text_env.py, princeton-nlp/WebShop@64fa2a5.
"""

from __future__ import annotations

import random
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import product as combine

from qlass.envs.webshop.catalogue import Catalogue, Product
from qlass.errors import DataError

ORDER_SEED = 233
"""WebShop shuffles its goals with this seed, so an index names the same goal everywhere."""
NO_CAP = 1_000_000
"""Cap where no multiple of ten below 1,000 is left to draw."""
_CAPS = tuple(10.0 * tens for tens in range(1, 100))


@dataclass(frozen=True, slots=True)
class Goal:
    """A purchase that is asked for.

    Attributes:
        asin: the target product.
        category: of the target.
        query: label of the target.
        title: of the target.
        product_category: of the target.
        instruction: what the agent is told.
        attributes: what the product must be like.
        price_upper: cap in dollars; NO_CAP where the instruction names none.
        options: (name, value) of each option for a synthetic goal, values only for one that a person wrote. Which of
            the two it is matters for the reward.
        weight: how often WebShop draws the goal, relative to others.
    """

    asin: str
    category: str
    query: str
    title: str
    product_category: str
    instruction: str
    attributes: tuple[str, ...]
    price_upper: float
    options: tuple[tuple[str, str], ...] | tuple[str, ...]
    weight: float

    @property
    def option_values(self) -> tuple[str, ...]:
        """The values to choose, without the names of their groups."""
        return tuple(option if isinstance(option, str) else option[1] for option in self.options)


def synthetic_goals(catalogue: Catalogue, per_product: int | None = None) -> tuple[Goal, ...]:
    """Return a goal for each combination of options of each product with an instruction, in WebShop's order.

    Args:
        catalogue: the products.
        per_product: keep at most so many combinations of a product, drawn with the catalogue's seed; None: all, as
            WebShop does.

    Raises:
        DataError: an instruction names no attribute.
    """
    caps = _cap_rng(catalogue)
    picks = random.Random(_cap_rng(catalogue).random())  # another generator: caps are the same whatever is kept
    goals: list[Goal] = []
    for product in catalogue.products:
        if product.instruction is None:
            continue
        if not product.instruction_attributes:
            raise DataError(
                f"instructions: {product.asin} has an instruction without attributes; expected at least one"
            )
        price_upper, price_text = _cap(product, caps)
        groups = sorted(product.options)
        combinations = list(combine(*(values for _, values in groups)))
        if per_product is not None and per_product < len(combinations):
            combinations = picks.sample(combinations, per_product)
        for values in combinations:
            options = tuple((name, value) for (name, _), value in zip(groups, values, strict=True))
            wanted = ", and ".join(f"{name}: {value}" for name, value in options)
            text = f"{product.instruction}{f' with {wanted}' if wanted else ''}{price_text}"
            goals.append(_goal(product, text, product.instruction_attributes, price_upper, options))
    return _shuffled(_weighted(goals))


def human_goals(catalogue: Catalogue) -> tuple[Goal, ...]:
    """Return a goal for each instruction that a person wrote and that names an attribute, in WebShop's order."""
    caps = _cap_rng(catalogue)
    goals = []
    for product in catalogue.products:
        for written in product.human:
            if written.attributes:
                price_upper, price_text = _cap(product, caps)
                text = written.text.strip(".") + price_text
                goals.append(_goal(product, text, written.attributes, price_upper, written.options))
    return _shuffled(goals)


def _goal(
    product: Product,
    text: str,
    attributes: tuple[str, ...],
    price_upper: float,
    options: tuple[tuple[str, str], ...] | tuple[str, ...],
) -> Goal:
    return Goal(
        asin=product.asin,
        category=product.category,
        query=product.query,
        title=product.title,
        product_category=product.product_category,
        instruction=text,
        attributes=attributes,
        price_upper=price_upper,
        options=options,
        weight=1.0,
    )


def _cap_rng(catalogue: Catalogue) -> random.Random:
    """Return a generator that stands where the one of the prices stopped."""
    rng = random.Random()
    rng.setstate(catalogue.drawn)
    return rng


def _cap(product: Product, rng: random.Random) -> tuple[float, str]:
    """Return the price cap and its words: the larger of two of the next four multiples of ten."""
    candidates = [cap for cap in _CAPS if cap > product.price][:4]
    if len(candidates) < 2:
        return NO_CAP, ""
    cap = max(rng.sample(candidates, 2))
    return cap, f", and price lower than {cap:.2f} dollars"


def _weighted(goals: Sequence[Goal]) -> Iterator[Goal]:
    """Yield goals with their weight: a goal is rarer where many goals share its attributes."""
    count = Counter(attribute for goal in goals for attribute in goal.attributes)
    for goal in goals:
        weight = sum(1.0 / count[attribute] for attribute in goal.attributes) / len(goal.attributes)
        yield replace(goal, weight=weight)


def _shuffled(goals: Iterator[Goal] | Sequence[Goal]) -> tuple[Goal, ...]:
    ordered = list(goals)
    random.Random(ORDER_SEED).shuffle(ordered)
    return tuple(ordered)
