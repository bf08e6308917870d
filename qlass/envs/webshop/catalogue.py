"""What the shop sells: products read from WebShop's three files, or from the same structures in memory.

The rules of reading are those of web_agent_site/engine/engine.py, princeton-nlp/WebShop@64fa2a5: ids of more than ten
characters are left out, the first of two equal ids wins, a missing price is 100 dollars, a price range becomes one
price that is drawn.

*Differs from WebShop:* prices (here) and price caps (`goals`) are drawn with a generator of our own seed, so equal files
give equal shops; upstream leaves them to chance. The order of draws is upstream's: a generator that stands where its own
stood gives its prices and caps.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Literal, NotRequired

from pydantic import TypeAdapter, ValidationError

# pydantic reads the TypedDict of this package only, below Python 3.12 (https://errors.pydantic.dev/2/u/typed-dict-version).
from typing_extensions import TypedDict

from qlass.errors import DataError
from qlass.jsonl import opened
from qlass.validation import problems

MAX_ID_LENGTH = 10
"""Characters of a product's id; products with longer ids are left out."""
MISSING_PRICE = 100.0
"""Dollars."""
NO_ATTRIBUTES = ("DUMMY_ATTR",)
"""Hidden attributes of a product without a record of them."""


class _Value(TypedDict):
    value: str


class _Item(TypedDict):
    """The fields of items_shuffle*.json that matter; all others are ignored."""

    asin: str
    name: str
    full_description: str
    small_description: list[str] | str
    pricing: NotRequired[str | None]
    category: str
    query: str
    product_category: str
    customization_options: dict[str, list[_Value] | None] | Literal[""] | None


class _Attributes(TypedDict):
    """A value of items_ins_v2*.json."""

    attributes: NotRequired[list[str]]
    instruction: NotRequired[str | None]
    instruction_attributes: NotRequired[list[str] | None]


class _Human(TypedDict):
    """An entry of items_human_ins.json; who wrote it is not read."""

    instruction: str
    instruction_attributes: list[str]
    instruction_options: list[str]


_PRODUCTS = TypeAdapter(list[_Item])
_ATTRIBUTES = TypeAdapter(dict[str, _Attributes])
_HUMAN = TypeAdapter(dict[str, list[_Human]])


@dataclass(frozen=True, slots=True)
class HumanInstruction:
    """An instruction that somebody wrote for a product.

    Attributes:
        text: as written, without a price.
        attributes: what the product must be like.
        options: option values to choose; their groups are not recorded.
    """

    text: str
    attributes: tuple[str, ...]
    options: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class Product:
    """One product.

    Attributes:
        asin: its id.
        title: of the product.
        description: may be empty.
        bullets: the features.
        price: dollars, what the reward compares with the cap.
        price_text: what pages show, for example "$19.99 to $27.99".
        category: one of WebShop's five.
        query: label of the search that found it, lower case.
        product_category: path of categories, separated by " › ".
        options: (name, values) of each group, lower case.
        attributes: hidden attributes.
        instruction: beginning of the synthetic instruction, None where there is none.
        instruction_attributes: attributes that it names.
        human: instructions that people wrote.
    """

    asin: str
    title: str
    description: str
    bullets: tuple[str, ...]
    price: float
    price_text: str
    category: str
    query: str
    product_category: str
    options: tuple[tuple[str, tuple[str, ...]], ...]
    attributes: tuple[str, ...]
    instruction: str | None
    instruction_attributes: tuple[str, ...]
    human: tuple[HumanInstruction, ...]

    @property
    def document(self) -> str:
        """What the search reads: title, description, the first bullet only, and the options, in lower case.

        Source: search_engine/convert_product_file_format.py of WebShop.
        """
        options = ", and ".join(f"{name}: {', '.join(values)}" for name, values in self.options)
        return " ".join((self.title, self.description, *self.bullets[:1], options)).lower()


@dataclass(frozen=True)
class Catalogue:
    """All products in their order, which the order of the goals depends on.

    Attributes:
        products: in the order of the file.
        drawn: state of the generator after it drew the prices, where the price caps go on.
    """

    products: tuple[Product, ...]
    drawn: tuple[Any, ...]

    @classmethod
    def of(
        cls,
        products: Sequence[Mapping[str, Any]],
        instructions: Mapping[str, Any],
        human: Mapping[str, Any] | None = None,
        *,
        seed: int | random.Random,
    ) -> Catalogue:
        """Build a catalogue of parsed JSON values.

        Args:
            products: content of items_shuffle*.json.
            instructions: content of items_ins_v2*.json: attributes and synthetic instructions by id.
            human: content of items_human_ins.json, None where there is none.
            seed: of the prices, or a generator to draw them with.

        Raises:
            DataError: a value is not what the file holds, a price is no number, or there is no usable product.
        """
        items: list[_Item] = _checked(_PRODUCTS, products, "products")
        hidden: dict[str, _Attributes] = _checked(_ATTRIBUTES, instructions, "instructions")
        written: dict[str, list[_Human]] = _checked(_HUMAN, {} if human is None else human, "human instructions")
        rng = seed if isinstance(seed, random.Random) else random.Random(seed)
        found: dict[str, Product] = {}
        for item in items:
            asin = item["asin"]
            if asin == "nan" or len(asin) > MAX_ID_LENGTH or asin in found:
                continue
            amounts = _amounts(item)
            price = rng.uniform(*amounts) if len(amounts) == 2 else amounts[0]
            found[asin] = _product(item, amounts, price, hidden.get(asin, {}), written.get(asin, ()))
        if not found:
            raise DataError(
                f"products: {len(items)} entries, none of them with an id of 1 to {MAX_ID_LENGTH} characters"
            )
        if not found.keys() & hidden.keys():
            raise DataError(
                "instructions: none of the products is in them; expected the file that belongs to the products"
            )
        return cls(tuple(found.values()), rng.getstate())

    @cached_property
    def by_asin(self) -> Mapping[str, Product]:
        """Products by id."""
        return {product.asin: product for product in self.products}


def load(items: Path, attributes: Path, human: Path | None = None, *, seed: int | random.Random) -> Catalogue:
    """Read WebShop's files.

    Args:
        items: items_shuffle.json or items_shuffle_1000.json.
        attributes: items_ins_v2.json or items_ins_v2_1000.json.
        human: items_human_ins.json, None where there is none.
        seed: of the prices, or a generator to draw them with.

    Raises:
        DataError: a file is absent, cut off, or not the one that it should be; names the files and the place.
        StorageError: the operating system could not read a file.
    """
    names = " and ".join(str(path) for path in (items, attributes, human) if path is not None)
    products, instructions = _json(items), _json(attributes)
    written = None if human is None else _json(human)
    try:
        return Catalogue.of(products, instructions, written, seed=seed)
    except DataError as error:
        raise DataError(
            f"WebShop's data in {names}: {error}. Set options.data to the three files as downloaded."
        ) from None


def _json(path: Path) -> Any:
    with opened(path) as file:
        content = file.read()
    try:
        return json.loads(content)
    except ValueError as error:
        raise DataError(f"{path}: no complete JSON ({len(content)} bytes): {error}; copy the file again") from None


def _checked(adapter: TypeAdapter[Any], value: object, what: str) -> Any:
    try:
        return adapter.validate_python(value, strict=True)
    except ValidationError as error:
        raise DataError(f"{what}: {problems(error, adapter)[0]}") from None


def _amounts(item: _Item) -> tuple[float, ...]:
    """Return the price, or the first two of several, in dollars."""
    text = item.get("pricing")
    if not text:
        return (MISSING_PRICE,)
    try:
        amounts = tuple(float(re.sub(r"[^\d.]", "", part)) for part in text.split("$")[1:3])
    except ValueError:
        amounts = ()
    if not amounts:
        raise DataError(f"products: pricing of {item['asin']} is {text!r}; expected '', '$1.50' or '$1.50 to $2.00'")
    return amounts


def _product(
    item: _Item, amounts: tuple[float, ...], price: float, hidden: _Attributes, written: Iterable[_Human]
) -> Product:
    bullets = item["small_description"]
    groups = {
        name.lower(): tuple(entry["value"].strip().replace("/", " | ").lower() for entry in entries)
        for name, entries in (item["customization_options"] or {}).items()
        if entries is not None
    }
    return Product(
        asin=item["asin"],
        title=item["name"],
        description=item["full_description"],
        bullets=tuple(bullets) if isinstance(bullets, list) else (bullets,),
        price=price,
        price_text=" to ".join(f"${amount}" for amount in amounts),
        category=item["category"],
        query=item["query"].lower().strip(),
        product_category=item["product_category"],
        options=tuple(groups.items()),
        attributes=tuple(hidden.get("attributes", NO_ATTRIBUTES)),
        instruction=hidden.get("instruction"),
        instruction_attributes=tuple(hidden.get("instruction_attributes") or ()),
        human=tuple(
            HumanInstruction(
                entry["instruction"], tuple(entry["instruction_attributes"]), tuple(entry["instruction_options"])
            )
            for entry in written
        ),
    )
