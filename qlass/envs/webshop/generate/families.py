"""Families of the generated catalogue: near-identical products of one type, told apart by what customers ask for.

One product has everything. Each sibling lacks something: an attribute, an option value, two attributes, or it costs more
than any price cap that a goal of the first can have. What it lacks is replaced by something else, so that it is the
right product for other customers.
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from qlass.envs.webshop.generate.vocabulary import Attribute, OptionGroup, ProductType, Vocabulary
from qlass.seeds import derive_seed

ALL, NO_ATTRIBUTE, NO_OPTION, DEAR, NO_TWO = "all", "no attribute", "no option", "dear", "no two attributes"
"""Roles in a family: what a product lacks."""

# Shares in upstream's 1,000 products (webshop.md, 2.2): groups 0/1/2/3 = 58/25/17/1 %, values of a group median 4 and
# p90 10, ranges 9 %, no price 9 %, no description 30 %. Options are more frequent here: three goals of four name one.
_GROUPS = {0: 0.42, 1: 0.34, 2: 0.18, 3: 0.06}
_VALUES = (2, 3, 3, 4, 4, 4, 5, 6, 8, 10, 12)
_RANGES, _NO_PRICE, _NO_DESCRIPTION = 0.08, 0.06, 0.3
_PLACES = {"title": 0.27, "first": 0.13, "later": 0.57, "description": 0.03}
"""Where an attribute is stated. Search reads the title, the description and the first bullet only."""
_IN_TITLE = 2
_ABOVE_CAP = (45.0, 120.0)
"""What a dear product costs more (dollars): a cap is at most 40 above the price (webshop.md, 1.4)."""
_MISSING_PRICE = 100.0
"""What upstream takes where a product has no price (dollars)."""
_IDS = 36**8
_DIGITS = "0123456789ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_SMALL_WORDS = frozenset({"a", "an", "and", "by", "in", "of", "the", "to"})


@dataclass(frozen=True, slots=True)
class Product:
    """A product and what it was made of.

    Attributes:
        asin: ten capital letters and digits.
        family: number of its family, from 0.
        role: what it lacks.
        kind: its product type.
        attributes: the family's wanted ones first, where it has them.
        options: values by group.
        wanted: the option that one sibling lacks, as (group, value); None in families without options.
        prices: one, the ends of a range, or none (dollars).
        title: with the brand in front.
        bullets: at least three; only the first is searched.
        description: may be empty.
    """

    asin: str
    family: int
    role: str
    kind: ProductType
    attributes: tuple[Attribute, ...]
    options: tuple[OptionGroup, ...]
    wanted: tuple[str, str] | None
    prices: tuple[float, ...]
    title: str = ""
    bullets: tuple[str, ...] = ()
    description: str = ""

    def record(self) -> dict[str, Any]:
        """Return the product as upstream's items file has it."""
        options = {
            group.name.capitalize(): [{"value": value, "image": ""} for value in group.values]
            for group in self.options
        }
        return {
            "asin": self.asin,
            "name": self.title,
            "full_description": self.description,
            "small_description": list(self.bullets),
            "pricing": " to ".join(f"${price:.2f}" for price in self.prices),
            "images": [""],
            "category": self.kind.category,
            "query": self.kind.label,
            "product_category": self.kind.path,
            "customization_options": options or "",
        }


def make_family(words: Vocabulary, number: int, first: int, seed: int) -> list[Product]:
    """Return the three to five products of a family, in a drawn order.

    Args:
        words: the vocabulary.
        number: of the family, from 0; its type and all draws follow from it and the seed.
        first: number of its first product in the catalogue.
        seed: of the catalogue.
    """
    rng = random.Random(derive_seed("webshop family", seed, number))
    kind = type_of(words, number, seed)
    head = rng.choice(kind.heads)
    drafts = _siblings(_base(kind, number, rng), rng)
    rng.shuffle(drafts)
    return [
        _written(words, replace(draft, asin=_asin(first + place, seed)), head, rng)
        for place, draft in enumerate(drafts)
    ]


def type_of(words: Vocabulary, number: int, seed: int) -> ProductType:
    """Return the type of a family: every type once, in a drawn order, then again in a new one."""
    lap, place = divmod(number, len(words.types))
    order = list(words.types)
    random.Random(derive_seed("webshop types", seed, lap)).shuffle(order)
    return order[place]


def _asin(number: int, seed: int) -> str:
    """Return the id of the catalogue's n-th product: two never agree, since 36^8 and the factor have no common one."""
    value = (number * 1_768_543_210_577 + derive_seed("webshop ids", seed)) % _IDS
    digits = ""
    for _ in range(8):
        value, digit = divmod(value, 36)
        digits = _DIGITS[digit] + digits
    return f"B0{digits}"


def _base(kind: ProductType, number: int, rng: random.Random) -> Product:
    """Draw the product that has everything."""
    count = min(rng.choices(list(_GROUPS), list(_GROUPS.values()))[0], len(kind.options))
    chosen = sorted(rng.sample(range(len(kind.options)), count))
    options = tuple(_offered(kind.options[index], rng) for index in chosen)
    wanted = None
    if options:
        group = rng.choice(options)
        wanted = (group.name, rng.choice(group.values))
    attributes = tuple(rng.sample(kind.attributes, rng.choice((2, 3, 3, 4))))
    return Product("", number, ALL, kind, attributes, options, wanted, _shown(_price(kind, rng), rng))


def _offered(group: OptionGroup, rng: random.Random) -> OptionGroup:
    """Draw the values that a product offers, at least one of the pool left out, in the pool's order."""
    count = min(rng.choice(_VALUES), len(group.values) - 1)
    chosen = sorted(rng.sample(range(len(group.values)), count))
    return OptionGroup(group.name, tuple(group.values[index] for index in chosen))


def _price(kind: ProductType, rng: random.Random) -> float:
    """Draw a usual price in dollars, low ones more often."""
    low, high = kind.price
    return _cents(low * (high / low) ** rng.random())


def _shown(price: float, rng: random.Random) -> tuple[float, ...]:
    """Return what is shown of a price: in a few per cent a range, or nothing."""
    draw = rng.random()
    if draw < _NO_PRICE:
        return ()
    return (price, _cents(price * rng.uniform(1.2, 1.6))) if draw < _NO_PRICE + _RANGES else (price,)


def _cents(price: float) -> float:
    """Return a price that ends as prices in shops do."""
    return int(price) + (0.99 if price % 1 > 0.4 else 0.49)


def _siblings(base: Product, rng: random.Random) -> list[Product]:
    """Return the product that has everything and two to four that lack something."""
    roles = [NO_ATTRIBUTE, DEAR, NO_TWO] + ([NO_OPTION] if base.options else [])
    chosen = [DEAR, *rng.sample(roles, rng.choice((1, 2, 2, 3)))]
    return [base, *(_lacking(base, role, rng) for role in chosen)]


def _lacking(base: Product, role: str, rng: random.Random) -> Product:
    """Draw a sibling."""
    top = base.prices[-1] if base.prices else _MISSING_PRICE
    if role == DEAR:
        return replace(base, role=role, prices=(_cents(top + rng.uniform(*_ABOVE_CAP) + 1),))
    prices = _shown(_cents(max(top * rng.uniform(0.85, 1.1), 4.0)), rng)
    if role == NO_OPTION and base.wanted:
        return replace(base, role=role, prices=prices, options=_without(base, base.wanted, rng))
    lost = 1 if role == NO_ATTRIBUTE else 2
    spare = [attribute for attribute in base.kind.attributes if attribute not in base.attributes]
    return replace(base, role=role, prices=prices, attributes=(*base.attributes[lost:], *rng.sample(spare, 1)))


def _without(base: Product, wanted: tuple[str, str], rng: random.Random) -> tuple[OptionGroup, ...]:
    """Return the options with the wanted value exchanged for one that the others do not have."""
    name, value = wanted
    pools = {group.name: group.values for group in base.kind.options}
    options = []
    for group in base.options:
        values = group.values
        if group.name == name:
            other = rng.choice([option for option in pools[name] if option not in values])
            values = tuple(option for option in pools[name] if option in {*values, other} - {value})
        options.append(OptionGroup(group.name, values))
    return tuple(options)


def _written(words: Vocabulary, product: Product, head: str, rng: random.Random) -> Product:
    """Draw where each attribute is stated, and the texts around."""
    kind = product.kind
    places: dict[str, list[Attribute]] = {place: [] for place in _PLACES}
    for attribute in product.attributes:
        place = rng.choices(list(_PLACES), list(_PLACES.values()))[0]
        full = (place == "title" and len(places["title"]) == _IN_TITLE) or (place == "first" and places["first"])
        places["later" if full else place].append(attribute)
    fillers = [text.format(thing=kind.thing) for text in rng.sample(words.bullets[kind.category], 4)]
    first = [_clause(words, kind, attribute, rng) for attribute in places["first"]] or [fillers.pop()]
    later = [_clause(words, kind, attribute, rng) for attribute in places["later"]]
    missing = max(rng.choice((3, 4, 5)) - 1 - len(later), 0)
    later += fillers[:missing]
    rng.shuffle(later)
    return replace(
        product,
        title=_title(words, kind, head, places["title"], rng),
        bullets=(*first, *later),
        description=_description(words, kind, places["description"], rng),
    )


def _clause(words: Vocabulary, kind: ProductType, attribute: Attribute, rng: random.Random) -> str:
    return rng.choice(words.clauses[attribute.kind]).format(thing=kind.thing, text=attribute.text)


def _description(words: Vocabulary, kind: ProductType, stated: Sequence[Attribute], rng: random.Random) -> str:
    """Return up to three sentences and what is stated; three products of ten have none."""
    if not stated and rng.random() < _NO_DESCRIPTION:
        return ""
    sentences = rng.sample(words.sentences[kind.category], rng.choice((1, 2, 3)))
    sentences += [f"{_clause(words, kind, attribute, rng)}." for attribute in stated]
    rng.shuffle(sentences)
    return " ".join(sentences)


def _title(words: Vocabulary, kind: ProductType, head: str, stated: Sequence[Attribute], rng: random.Random) -> str:
    """Return for example "Belcoda Gluten Free Crunchy Trail Mix with Sea Salt, Hiking Snack, Lunch Box"."""
    brand = rng.choice(words.brands[0]) + rng.choice(words.brands[1])
    before = [attribute.text for attribute in stated if attribute.leads]
    behind = [attribute for attribute in stated if not attribute.leads]
    title = " ".join([brand, *map(_capitals, before), rng.choice(kind.adjectives), head])
    for attribute in behind:
        word = {"is": ",", "has": " with", "for": " for"}[attribute.kind]
        title += f"{word} {_capitals(attribute.bare)}"
    return ", ".join([title, *rng.sample(kind.fillers, rng.choice((1, 2, 2)))])


def _capitals(text: str) -> str:
    return " ".join(word if word in _SMALL_WORDS else word.capitalize() for word in text.split())
