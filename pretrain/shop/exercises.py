"""Questions about the page at hand and about what was read before, with their answers from the shop's own data.

They ask what a shopper's thoughts ask: what is needed, what it costs, what a title, a list of values or a text says.
None asks what to do.
"""

from __future__ import annotations

import random
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache

from pretrain.conversations import Exercise, listed, yes
from pretrain.shop.world import Visit, dollars, prices, stated
from qlass.envs.webshop.catalogue import Product
from qlass.envs.webshop.generate.vocabulary import Attribute, vocabulary

Ask = Callable[[Visit, random.Random], tuple[str, str] | None]
"""Draws a question and its answer; None where the page gives no reason for it."""


def draw(visit: Visit, rng: random.Random) -> Exercise:
    """Draw a question about the page of a visit, about the instruction, or about what was done before."""
    while True:
        asks = rng.choices((_BY_PLACE[visit.state.place], INSTRUCTION, MEMORY), (6, 1, 2))[0]
        kind = rng.choice(list(asks)) if asks else None
        if kind and (found := asks[kind](visit, rng)):
            return Exercise(kind, *found)


def remark(visit: Visit, rng: random.Random) -> str:
    """Draw a question that is short with its answer, and put both into a thought, as thoughts ask themselves."""
    while True:
        _, question, answer = draw(visit, rng)
        thought = f"{question} {answer}."
        if len(thought) <= _SHORT:
            return thought


_SHORT = 70
"""Characters of a thought at most."""


# About the instruction


def _needs(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return "What do you need?", visit.wanted.listed()


def _thing(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return "Which product do you need?", visit.wanted.thing


def _properties(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return "Which properties do you need?", listed(one.bare for one in visit.wanted.attributes)


def _options(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return "Which options do you need?", listed(visit.wanted.options)


def _cap(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    cap = visit.wanted.cap
    return "What may it cost?", "anything" if cap is None else f"below {dollars(cap)}"


def _needed(visit: Visit, rng: random.Random) -> tuple[str, str]:
    attribute = _some_attribute(visit, rng)
    return f"Do you need {attribute.bare}?", yes(attribute in visit.wanted.attributes)


def _instruction(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return "Repeat the instruction.", visit.goal.instruction


# About a page of results


def _listed_ids(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return "Which ids are listed?", listed(product.asin for product in visit.listed())


def _nth_id(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    ids = [product.asin for product in visit.listed()]
    number = rng.randint(1, len(ids) or 1)
    return (f"Which id is number {number}?", ids[number - 1]) if ids else None


def _next_id(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    ids = [product.asin for product in visit.listed()]
    if not ids:
        return None
    place = rng.randrange(len(ids))
    return f"Which id comes after {ids[place]}?", ids[place + 1] if place + 1 < len(ids) else "none"


def _is_listed(visit: Visit, rng: random.Random) -> tuple[str, str]:
    """Ask for an id: a listed one, or one that was opened or stands elsewhere in the shop."""
    ids = [product.asin for product in visit.listed()]
    others = [asin for asin in visit.opened if asin not in ids] or [
        rng.choice(visit.world.shop.catalogue.products).asin
    ]
    asin = rng.choice(ids) if ids and rng.random() < 0.5 else rng.choice(others)
    return f"Is {asin} listed?", yes(asin in ids)


def _unopened(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return "Which id did you not open?", next(
        (product.asin for product in visit.listed() if product.asin not in visit.opened), "none"
    )


def _total(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return "How many results are there?", str(len(visit.world.shop.hits(visit.state.keywords)))


def _page(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return "Which page is it?", str(visit.state.page)


def _cost(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    if product := _hit(visit, rng):
        return f"What does {product.asin} cost?", " to ".join(map(dollars, prices(product)))
    return None


def _below_limit(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    """Ask whether a hit costs less than the instruction's cap, in the words that thoughts have for it."""
    product, cap = _hit(visit, rng), visit.wanted.cap
    if product is None or cap is None:
        return None
    return f"Is {product.asin} below the limit?", _compared(prices(product)[0], cap)


def _below(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    """Ask the same of any cap, near the price as often as far from it."""
    product = _hit(visit, rng)
    if product is None:
        return None
    price = prices(product)[0]
    near = 10.0 * max(1, round(price / 10) + rng.randint(-2, 2))
    cap = near if rng.random() < 0.5 else 10.0 * rng.randint(1, 30)
    return f"Is {product.asin} below {dollars(cap)}?", _compared(price, cap)


def _all_below(visit: Visit, _rng: random.Random) -> tuple[str, str] | None:
    cap = visit.wanted.cap
    if cap is None:
        return None
    below = [product.asin for product in visit.listed() if prices(product)[0] < cap]
    return f"Which ids are below {dollars(cap)}?", listed(below)


def _title(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    product = _hit(visit, rng)
    return (f"What is the title of {product.asin}?", product.title) if product else None


def _id_of_title(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    if product := _hit(visit, rng):
        same = [other.asin for other in visit.listed() if other.title == product.title]
        return f"Which id has the title {product.title}?", listed(same)
    return None


def _kind(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    """Ask whether a hit is of the wanted kind, one that is as often as one that is not."""
    hits, label = visit.listed(), visit.wanted.label
    right = [product for product in hits if product.query == label]
    wrong = [product for product in hits if product.query != label]
    chosen = (right or wrong) if rng.random() < 0.5 else (wrong or right)
    if not chosen:
        return None
    product = rng.choice(chosen)
    return f"Is {product.asin} a {visit.wanted.thing}?", yes(product.query == label)


def _kinds(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    right = [product.asin for product in visit.listed() if product.query == visit.wanted.label]
    return f"Which ids are a {visit.wanted.thing}?", listed(right)


def _in_title_of(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    """Ask whether a title states a property, one that does as often as one that does not."""
    attribute = _some_attribute(visit, rng, *(product.title for product in visit.listed()))
    having = [product for product in visit.listed() if stated(attribute, product.title)]
    lacking = [product for product in visit.listed() if product not in having]
    chosen = (having or lacking) if rng.random() < 0.5 else (lacking or having)
    if not chosen:
        return None
    product = rng.choice(chosen)
    return f"Is {attribute.bare} in the title of {product.asin}?", yes(product in having)


def _found_in_title_of(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    if product := _hit(visit, rng):
        found = [one.bare for one in visit.wanted.attributes if stated(one, product.title)]
        return f"Which of your properties are in the title of {product.asin}?", listed(found)
    return None


def _stating(visit: Visit, rng: random.Random) -> tuple[str, str]:
    attribute = _some_attribute(visit, rng, *(product.title for product in visit.listed()))
    found = [product.asin for product in visit.listed() if stated(attribute, product.title)]
    return f"Which ids have {attribute.bare} in the title?", listed(found)


# About a product's page


def _offered(visit: Visit, rng: random.Random) -> tuple[str, str]:
    """Ask for a value: an offered one, a wanted one, or one that products of the shop have."""
    values = [value for group in visit.offered.values() for value in group]
    others = list(visit.wanted.options) or [rng.choice(_all_values())]
    value = rng.choice(values) if values and rng.random() < 0.4 else rng.choice(others)
    if rng.random() < 0.2:
        value = rng.choice(_all_values())
    return f"Is {value} offered?", yes(value in values)


def _values(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    if not visit.offered:
        return None
    group = rng.choice(list(visit.offered))
    return f"Which values of {group} are offered?", listed(visit.offered[group])


def _groups(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return "Which kinds of options are there?", listed(visit.offered)


def _wanted_offered(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    values = {value for group in visit.offered.values() for value in group}
    return "Which of your options are offered?", listed(one for one in visit.wanted.options if one in values)


def _wanted_value(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    """Ask which value of a group is wanted, where the group is offered."""
    if not visit.offered:
        return None
    group = rng.choice(list(visit.offered))
    return f"Which {group} of these do you need?", listed(
        value for value in visit.offered[group] if value in visit.wanted.options
    )


def _item_cost(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return "What does it cost?", " to ".join(map(dollars, prices(visit.product)))


def _item_below_limit(visit: Visit, _rng: random.Random) -> tuple[str, str] | None:
    cap = visit.wanted.cap
    return None if cap is None else ("Is it below the limit?", _compared(prices(visit.product)[0], cap))


def _item_kind(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    return f"Is it a {visit.wanted.thing}?", yes(visit.product.query == visit.wanted.label)


def _in_title(visit: Visit, rng: random.Random) -> tuple[str, str]:
    attribute = _some_attribute(visit, rng, visit.product.title)
    return f"Is {attribute.bare} in the title?", yes(stated(attribute, visit.product.title))


def _found_in_title(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    found = [one.bare for one in visit.wanted.attributes if stated(one, visit.product.title)]
    return "Which of your properties are in the title?", listed(found)


# About a sub page


def _stated_here(visit: Visit, rng: random.Random) -> tuple[str, str]:
    attribute = _some_attribute(visit, rng, *visit.here())
    return f"Is {attribute.bare} stated here?", yes(stated(attribute, *visit.here()))


def _found_here(visit: Visit, _rng: random.Random) -> tuple[str, str]:
    found = [one.bare for one in visit.wanted.attributes if stated(one, *visit.here())]
    return "Which of your properties are stated here?", listed(found)


def _where(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    """Ask for the text that states a property."""
    attribute = _some_attribute(visit, rng, *visit.here())
    found = [text for text in visit.here() if stated(attribute, text)]
    return (f"Which text states {attribute.bare}?", found[0]) if found else None


# About what was done before


def _chosen(visit: Visit, _rng: random.Random) -> tuple[str, str] | None:
    """Ask for the chosen options, which no page of this mode shows."""
    if visit.state.place not in ("item", "sub"):
        return None
    return "Which options did you choose?", listed(value for _, value in visit.state.options)


def _open(visit: Visit, _rng: random.Random) -> tuple[str, str] | None:
    return ("Which product is open?", visit.state.asin) if visit.state.asin else None


def _opened(visit: Visit, _rng: random.Random) -> tuple[str, str] | None:
    return ("Which products did you open?", listed(visit.opened[:6])) if visit.opened else None


def _was_opened(visit: Visit, rng: random.Random) -> tuple[str, str] | None:
    known = [product.asin for product in visit.listed()] if visit.state.place == "results" else []
    asins = visit.opened if visit.opened and (not known or rng.random() < 0.5) else known
    if not asins:
        return None
    asin = rng.choice(asins)
    return f"Did you open {asin}?", yes(asin in visit.opened)


def _seen_of(visit: Visit, _rng: random.Random) -> tuple[str, str] | None:
    """Ask what the title and the sub pages of the open product stated, as far as they were read."""
    if not visit.state.asin:
        return None
    texts = visit.texts[visit.state.asin]
    return "Which of your properties did you see of it?", listed(
        one.bare for one in visit.wanted.attributes if stated(one, *texts)
    )


def _query(visit: Visit, _rng: random.Random) -> tuple[str, str] | None:
    words = " ".join(visit.state.keywords)
    return ("What did you search for?", words) if words else None


def _possible(visit: Visit, rng: random.Random) -> tuple[str, str]:
    """Ask for a click that the page offers, or one that others do."""
    products = visit.world.shop.catalogue.products
    there = [target for target in visit.world.shop.targets(visit.state) if target != "search"]
    elsewhere = [
        *("buy now", "next >", "< prev", "back to search", "features", "description"),
        *(visit.opened or [rng.choice(products).asin]),
        *(visit.wanted.options or [rng.choice(_all_values())]),
    ]
    argument = rng.choice(there) if there and rng.random() < 0.5 else rng.choice(elsewhere)
    shown = argument.upper() if re.fullmatch(r"b0[0-9a-z]{8}", argument) else argument
    return f"Can you click {shown}?", yes(visit.can(argument))


INSTRUCTION: Mapping[str, Ask] = {
    "what is needed: all": _needs,
    "what is needed: the kind of product": _thing,
    "what is needed: properties": _properties,
    "what is needed: options": _options,
    "what is needed: the limit": _cap,
    "is this property needed": _needed,
    "the instruction": _instruction,
}
RESULTS: Mapping[str, Ask] = {
    "the ids of the page": _listed_ids,
    "the n-th id": _nth_id,
    "the id after this one": _next_id,
    "is this id listed": _is_listed,
    "the first id that was not opened": _unopened,
    "how many results": _total,
    "which page": _page,
    "the price of an id": _cost,
    "is this id below the instruction's limit": _below_limit,
    "is this id below a limit that is named": _below,
    "which ids are below the limit": _all_below,
    "the title of an id": _title,
    "the id of a title": _id_of_title,
    "is this id of the wanted kind": _kind,
    "which ids are of the wanted kind": _kinds,
    "is this property in the title of an id": _in_title_of,
    "which wanted properties are in the title of an id": _found_in_title_of,
    "which ids have this property in the title": _stating,
}
ITEM: Mapping[str, Ask] = {
    "is this value offered": _offered,
    "the values of a group": _values,
    "the groups of options": _groups,
    "which wanted options are offered": _wanted_offered,
    "which value of a group is wanted": _wanted_value,
    "the price of the product": _item_cost,
    "is the product below the limit": _item_below_limit,
    "is the product of the wanted kind": _item_kind,
    "is this property in the title": _in_title,
    "which wanted properties are in the title": _found_in_title,
}
SUB: Mapping[str, Ask] = {
    "is this property stated here": _stated_here,
    "which wanted properties are stated here": _found_here,
    "the text that states a property": _where,
}
MEMORY: Mapping[str, Ask] = {
    "which options were chosen": _chosen,
    "which product is open": _open,
    "which products were opened": _opened,
    "was this product opened": _was_opened,
    "which wanted properties were seen of the product": _seen_of,
    "the query": _query,
    "can this be clicked": _possible,
}
_BY_PLACE: Mapping[str, Mapping[str, Ask]] = {"index": INSTRUCTION, "results": RESULTS, "item": ITEM, "sub": SUB}


def _hit(visit: Visit, rng: random.Random) -> Product | None:
    hits = visit.listed()
    return rng.choice(hits) if hits else None


def _some_attribute(visit: Visit, rng: random.Random, *texts: str) -> Attribute:
    """Draw a wanted property, one that the texts state, or one that the kind of product can have."""
    pool = _pools()[visit.product.query if visit.state.asin else visit.wanted.label]
    there = [one for one in pool if stated(one, *texts)] if texts else []
    draws = [visit.wanted.attributes, visit.wanted.attributes, pool, there or visit.wanted.attributes, there or pool]
    return rng.choice(rng.choice(draws))


@cache
def _pools() -> Mapping[str, Sequence[Attribute]]:
    """Return the attributes that a kind of product can have, by its label."""
    return {kind.label: kind.attributes for kind in vocabulary().types}


@cache
def _all_values() -> Sequence[str]:
    """Return every value that a product of the corpus may offer."""
    return [
        value for kind in vocabulary().types if not kind.unseen for group in kind.options for value in group.values
    ]


def _compared(price: float, cap: float) -> str:
    return f"{dollars(price)}, {'below' if price < cap else 'not below'} {dollars(cap)}"
