"""What customers ask for: instructions in the style of people, and in upstream's synthetic style."""

from __future__ import annotations

import random
from collections.abc import Iterator, Sequence
from typing import Any

from qlass.envs.webshop.generate.families import ALL, DEAR, Product
from qlass.envs.webshop.generate.vocabulary import Attribute, Vocabulary
from qlass.seeds import derive_seed

# Of 107 annotated instructions of upstream: one attribute 69 %, two 23 %; no option 24 %, one 51 %, two 25 %.
_ATTRIBUTES = {1: 0.72, 2: 0.25, 3: 0.03}
_WANTED_ATTRIBUTE, _WANTED_OPTION = 0.75, 0.5
_ONE_GROUP, _ALL_GROUPS = 0.95, 0.7
_BEFORE, _OWN_SENTENCE = 0.4, 0.45
_PER_BASE, _PER_SIBLING = 8, 2
"""Instructions of the product that has everything and of its siblings; where there are no options, a third and one."""
_SYNTHETIC = 0.2
"""Share of the siblings with a synthetic instruction; every product that has everything has one."""

Record = dict[str, Any]


def human(words: Vocabulary, product: Product, seed: int) -> list[Record]:
    """Return different instructions as upstream's file of human ones has them; none for a product that is too dear.

    Args:
        words: the vocabulary.
        product: the target.
        seed: of the catalogue.
    """
    rng = random.Random(derive_seed("webshop instructions", seed, product.asin))
    count = _count(product)
    found: dict[str, Record] = {}
    for _ in range(count):
        attributes, options = _constraints(product, rng)
        text = _sentence(words, product, attributes, options, rng)
        found[text] = {
            "asin": product.asin,
            "instruction": text,
            "attributes": [attribute.key for attribute in product.attributes],
            "options": [f"{name}: {value}" for name, value in options],
            "instruction_attributes": [attribute.key for attribute in attributes],
            "instruction_options": [value for _, value in options],
        }
    return list(found.values())


def synthetic(product: Product, seed: int) -> Record:
    """Return a product's entry in upstream's file of attributes, with `Find me ...` where it is to have one.

    Args:
        product: the target.
        seed: of the catalogue.
    """
    rng = random.Random(derive_seed("webshop synthetic", seed, product.asin))
    record: Record = {"attributes": [attribute.key for attribute in product.attributes]}
    if product.role == ALL or (product.role != DEAR and rng.random() < _SYNTHETIC):
        chosen = list(product.attributes[:3])
        record["instruction"] = f"Find me {_listed(product.kind.label, chosen)}"
        record["instruction_attributes"] = [attribute.key for attribute in chosen]
    return record


def _listed(label: str, attributes: Sequence[Attribute]) -> str:
    """Return `A, B <label> with C, D for E, F`."""
    by_kind = {
        kind: [one.key for one in attributes if one.kind in kind] for kind in (("is", "of"), ("has",), ("for",))
    }
    before, having, purpose = by_kind.values()
    parts = [f"{', '.join(before)} {label}".strip()]
    parts += [f"with {', '.join(having)}"] if having else []
    parts += [f"for {', '.join(purpose)}"] if purpose else []
    return " ".join(parts)


def _count(product: Product) -> int:
    if product.role == DEAR:
        return 0
    count = _PER_BASE if product.role == ALL else _PER_SIBLING
    return count if product.options else -(-count // 3)


def _constraints(product: Product, rng: random.Random) -> tuple[list[Attribute], list[tuple[str, str]]]:
    """Draw what is asked for: attributes, and options as (group, value)."""
    count = min(rng.choices(list(_ATTRIBUTES), list(_ATTRIBUTES.values()))[0], len(product.attributes))
    attributes = rng.sample(product.attributes, count)
    first = product.attributes[0]
    if first not in attributes and rng.random() < _WANTED_ATTRIBUTE:
        attributes[0] = first
    groups = list(product.options)
    if len(groups) == 1 and rng.random() > _ONE_GROUP:
        groups = []
    elif len(groups) > 1 and rng.random() > _ALL_GROUPS:
        groups = [rng.choice(groups)]
    options = []
    for group in groups:
        value = rng.choice(group.values)
        if product.wanted and product.wanted[0] == group.name and rng.random() < _WANTED_OPTION:
            value = product.wanted[1] if product.wanted[1] in group.values else value
        options.append((group.name, value))
    return attributes, options


def _sentence(
    words: Vocabulary,
    product: Product,
    attributes: Sequence[Attribute],
    options: Sequence[tuple[str, str]],
    rng: random.Random,
) -> str:
    """Word an instruction, for example "i need a gluten free trail mix. the flavor should be ranch"."""
    before, behind = [], []
    for attribute in attributes:
        if attribute.leads and rng.random() < _BEFORE:
            before.append(attribute.text)
        else:
            behind.append(rng.choice(attribute.behind()))
    lead, own = [], []
    for name, value in options:
        asks = words.asks[name]
        if rng.random() < _OWN_SENTENCE:
            own.append(rng.choice(asks.own).format(value=value))
        else:
            lead.append(rng.choice(asks.lead).format(value=value))
    thing = " ".join([_article(product, before), *lead, " and ".join(behind)]).rstrip()
    return ". ".join([rng.choice(words.frames).format(thing=thing), *own])


def _article(product: Product, before: Sequence[str]) -> str:
    """Return the thing with what stands before it and the article that then fits."""
    phrase = " ".join([*before, product.kind.thing])
    if product.kind.noun == product.kind.thing:
        return phrase
    return f"{'an' if phrase[0] in 'aeio' else 'a'} {phrase}"


def entries(words: Vocabulary, products: Sequence[Product], seed: int) -> Iterator[tuple[str, list[Record]]]:
    """Yield the products that have human instructions with these."""
    for product in products:
        if found := human(words, product, seed):
            yield product.asin, found
