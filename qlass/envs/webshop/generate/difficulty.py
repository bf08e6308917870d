"""How hard a catalogue is: simple agents that need no learning, and where a search puts the target.

The same measurements of upstream's 1,000 products, and of catalogues of other sizes, are in docs/differences.md.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Sequence
from statistics import mean, median
from typing import Any

from qlass.envs.webshop.catalogue import Catalogue, Product
from qlass.envs.webshop.goals import Goal
from qlass.envs.webshop.nouns import Nouns
from qlass.envs.webshop.reward import reward
from qlass.envs.webshop.search import TOP, Index
from qlass.envs.webshop.solvable import best_options, is_solvable, n_solutions, own_options
from qlass.seeds import derive_seed

READERS = (3, 10)
"""Hits that the readers look at."""


def measure(catalogue: Catalogue, goals: Sequence[Goal], nouns: Nouns) -> dict[str, Any]:
    """Return the mean score and the success rate (shares, not per cent) of each simple agent, and ranks of the target.

    The agents search for the whole instruction. `rule` buys the first hit as it is; `rule_options` chooses the right
    options of the first hit; `reader_N` buys the best of the first N hits; `oracle` buys the target where it is among
    the hits; `random` buys any product with any options.

    Args:
        catalogue: the products.
        goals: at least one.
        nouns: extractor for the titles.
    """
    index = Index.of((product.asin, product.document) for product in catalogue.products)
    rng = random.Random(derive_seed("webshop difficulty"))
    scores: dict[str, list[float]] = {}
    ranks: dict[str, list[int]] = {"instruction": [], "label": []}

    def play(agent: str, goal: Goal, product: Product | None, options: dict[str, str]) -> float:
        score = reward(goal, product, options, nouns).total if product else 0.0
        scores.setdefault(agent, []).append(score)
        return score

    for goal in goals:
        hits = [catalogue.by_asin[hit.name] for hit in index.search(goal.instruction)]
        target = catalogue.by_asin[goal.asin]
        ranks["instruction"].append(_rank(goal.asin, (product.asin for product in hits)))
        ranks["label"].append(_rank(goal.asin, (hit.name for hit in index.search(goal.query))))
        play("rule", goal, hits[0], {})
        play("rule_options", goal, hits[0], best_options(goal, hits[0]))
        for count in READERS:
            tried = [reward(goal, product, best_options(goal, product), nouns).total for product in hits[:count]]
            scores.setdefault(f"reader_{count}", []).append(max(tried))
        play("oracle", goal, target if target in hits else None, own_options(goal, target))
        anything = rng.choice(catalogue.products)
        play("random", goal, anything, {name: rng.choice(values) for name, values in anything.options})
    return {
        "goals": len(goals),
        "agents": {
            name: {"score": _share(all_), "success": _share(score == 1.0 for score in all_)}
            for name, all_ in scores.items()
        },
        "target_within": {
            query: {str(top): _share(rank <= top for rank in found) for top in (1, 10, TOP)}
            for query, found in ranks.items()
        },
    }


def solutions(catalogue: Catalogue, goals: Sequence[Goal], nouns: Nouns) -> dict[str, Any]:
    """Return how many goals are dropped, because the target itself does not score 1.0, and how many products do."""
    kept = [goal for goal in goals if is_solvable(goal, catalogue, nouns)]
    counts = [n_solutions(goal, catalogue, nouns) for goal in kept]
    return {"goals": len(goals), "dropped": len(goals) - len(kept), "products_with_full_score": _share(counts)}


def describe(catalogue: Catalogue) -> dict[str, Any]:
    """Return statistics of a catalogue, as upstream's were measured (medians; shares of products)."""
    products = catalogue.products
    groups = [len(product.options) for product in products]
    return {
        "products": len(products),
        "title_words": median(len(product.title.split()) for product in products),
        "bullets": median(len(product.bullets) for product in products),
        "bullet_words": median(sum(len(bullet.split()) for bullet in product.bullets) for product in products),
        "no_description": _share(not product.description for product in products),
        "price": median(product.price for product in products),
        "price_drawn": _share(" to " in product.price_text for product in products),
        "option_groups": {str(count): _share(group == count for group in groups) for count in range(max(groups) + 1)},
        "values_of_a_group": median([len(values) for product in products for _, values in product.options] or [0]),
        "attributes": median(len(product.attributes) for product in products),
        "products_of_a_label": median(_counts(product.query for product in products)),
    }


def _rank(asin: str, hits: Iterable[str]) -> int:
    """Return the place of a product among hits, from 1; one after the last possible where it is not there."""
    return next((place for place, hit in enumerate(hits, start=1) if hit == asin), TOP + 1)


def _share(values: Iterable[float]) -> float:
    return round(mean(values), 4)


def _counts(labels: Iterable[str]) -> list[int]:
    found: dict[str, int] = {}
    for label in labels:
        found[label] = found.get(label, 0) + 1
    return list(found.values())
