"""What a purchase is worth: the share of what was asked for, times how well the kind of product fits.

Source: web_agent_site/engine/goal.py and normalize.py, princeton-nlp/WebShop@64fa2a5. Its leniencies are kept: one option
of the purchase may count for several of the goal, names of option groups are ignored, a colour is the first colour word
*inside* a value ("standard" is "tan").
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache, lru_cache

from qlass.envs.webshop.catalogue import Product
from qlass.envs.webshop.goals import Goal
from qlass.envs.webshop.nouns import Nouns
from qlass.errors import DependencyNotInstalled

_COLOR_TEXT = (
    "alabaster apricot aqua ash asphalt azure banana beige black blue blush bordeaux bronze brown burgundy camel "
    "camo caramel champagne charcoal cheetah chestnut chocolate christmas coffee cognac copper coral cranberry "
    "cream crystal dark denim eggplant elephant espresso fuchsia gold granite grape graphite grass gray green "
    "grey heather indigo ivory ivy khaki lavender lemon leopard light lilac lime magenta maroon mauve merlot "
    "midnight mint mocha multicolor mushroom mustard natural navy nude olive orange peach pewter pink plum purple "
    "rainbow red rose royal rust sand sapphire seashell silver skull slate steel stone stonewash sunflower tan "
    "taupe teal tiger turquoise violet walnut wheat white wine yellow"
)
COLORS = tuple(_COLOR_TEXT.split())
"""WebShop's colour words in its order (COLOR_SET of normalize.py, MIT License)."""
MATCH_ABOVE = 85
"""Two texts match where their token set ratio, 0 to 100, is above this."""
_PAIRS = 1 << 16
"""Pairs of texts whose ratio is remembered."""


@dataclass(frozen=True, slots=True)
class Reward:
    """The reward of a purchase and what it is made of.

    Attributes:
        total: in [0, 1].
        r_type: factor for the kind of product: 0, 0.1, 0.5 or 1.
        n_attributes: attributes of the goal that the product has.
        n_options: options of the goal that were chosen.
        r_price: the price is not above the cap.
        query_match: both products were found under one label.
        category_match: both share two parts of the category path.
        title_score: nouns of the target's title that the bought one has, over all nouns of the target's title.
    """

    total: float
    r_type: float
    n_attributes: int
    n_options: int
    r_price: bool
    query_match: bool
    category_match: bool
    title_score: float


def reward(goal: Goal, product: Product, options: Mapping[str, str], nouns: Nouns) -> Reward:
    """Return what buying a product is worth.

    Args:
        goal: what was asked for.
        product: what was bought.
        options: chosen value of each option group; the names of the groups do not matter.
        nouns: extractor for the titles.

    Raises:
        DependencyNotInstalled: rapidfuzz is missing.
    """
    query_match = product.query == goal.query
    category_match = len(_parts(product.product_category) & _parts(goal.product_category)) >= 2
    title_score = _title_score(nouns.of(product.title), nouns.of(goal.title))
    r_type = _r_type(query_match or category_match, title_score)
    n_attributes = sum(_has(product, attribute) for attribute in goal.attributes)
    n_options = _n_options(tuple(options.values()), goal.options)
    r_price = product.price <= goal.price_upper
    total = (n_attributes + n_options + r_price) / (len(goal.attributes) + len(goal.options) + 1) * r_type
    return Reward(total, r_type, n_attributes, n_options, r_price, query_match, category_match, title_score)


def normalize_color(option: str | tuple[str, str]) -> str | tuple[str, str]:
    """Return the first colour word that is in an option, or the option itself.

    A word is in a text as a part of it, and in a (name, value) pair only where it is all of the name or the value.
    """
    return next((color for color in COLORS if color in option), option)


def matches(left: object, right: object) -> bool:
    """Say whether two texts are nearly the same set of words, as thefuzz 0.22 does; a pair is compared as Python writes it.

    Raises:
        DependencyNotInstalled: rapidfuzz is missing.
    """
    return _matches(str(left), str(right))


@lru_cache(maxsize=_PAIRS)
def _matches(left: str, right: str) -> bool:
    return round(_ratio()(left.translate(_NO_LATIN), right.translate(_NO_LATIN))) > MATCH_ABOVE


_NO_LATIN = dict.fromkeys(range(128, 256))
"""thefuzz deletes these characters before it compares, and no others (utils.translation_table)."""


@cache
def _ratio() -> Callable[[str, str], float]:
    try:
        from rapidfuzz import fuzz, utils
    except ImportError:
        raise DependencyNotInstalled(
            "webshop: the package rapidfuzz, which compares options, is not installed; run pip install 'qlass[webshop]'"
        ) from None
    return lambda left, right: fuzz.token_set_ratio(left, right, processor=utils.default_process)


def _parts(path: str) -> frozenset[str]:
    return frozenset(part.strip() for part in path.split("›"))


def _title_score(bought: Sequence[str], wanted: Sequence[str]) -> float:
    """Return the share of nouns found; repeated ones stay in the denominator, so it can be below 1 for equal titles."""
    return len(set(bought) & set(wanted)) / len(wanted) if wanted else 0.2


def _r_type(match: bool, title_score: float) -> float:
    if title_score == 0.0:
        return 0.0
    if title_score < 0.1:
        return 0.1
    return 1.0 if match or title_score > 0.2 else 0.5


def _has(product: Product, attribute: str) -> bool:
    """Say whether a product is known to have an attribute, or says so on its pages."""
    if any(matches(known, attribute) for known in product.attributes):
        return True
    texts = (product.title, " ".join(product.bullets), product.description)
    return any(attribute in text.lower() for text in texts)


def _n_options(chosen: Sequence[str], wanted: Sequence[str | tuple[str, str]]) -> int:
    """Count the wanted options that any of the chosen values matches."""
    values = [normalize_color(value) for value in chosen]
    return sum(any(matches(value, normalize_color(option)) for value in values) for option in wanted)
