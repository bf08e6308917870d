"""`webshop-generated`: a catalogue, its instructions and its attributes, made from word lists and a seed.

The result has the structures of upstream's three files, so one loader reads both. It is not upstream's data: no number on
it can be compared with a published one (docs of the environment say why).
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlass.envs.webshop.generate.families import Product, make_family
from qlass.envs.webshop.generate.instructions import entries, synthetic
from qlass.envs.webshop.generate.vocabulary import vocabulary
from qlass.errors import SettingsError
from qlass.jsonl import replacing

MAX_SIZE = 100_000

FILES = ("items_shuffle.json", "items_ins_v2.json", "items_human_ins.json")
"""Upstream's names of the three files: products, attributes with synthetic instructions, human instructions."""


@dataclass(frozen=True, slots=True)
class Generated:
    """A generated catalogue.

    Attributes:
        products: in the order of the file; a larger catalogue of the same seed begins with the same ones, so the last
            family may be cut off.
        size: how many products were asked for.
        seed: what everything was drawn from.
    """

    products: tuple[Product, ...]
    size: int
    seed: int

    def items(self) -> list[dict[str, Any]]:
        """Return the content of the products file."""
        return [product.record() for product in self.products]

    def instructions(self) -> dict[str, dict[str, Any]]:
        """Return the content of the file of attributes and synthetic instructions, by asin."""
        return {product.asin: synthetic(product, self.seed) for product in self.products}

    def human(self) -> dict[str, list[dict[str, Any]]]:
        """Return the content of the file of human instructions, by asin."""
        return dict(entries(vocabulary(), self.products, self.seed))

    def by_asin(self) -> Mapping[str, Product]:
        """Return products by asin: `family`, `role` and `kind` say where each belongs."""
        return {product.asin: product for product in self.products}

    def write(self, folder: Path) -> None:
        """Write the three files into a folder, which is made where it is missing.

        Raises:
            StorageError: a file could not be written.
        """
        for name, content in zip(FILES, (self.items(), self.instructions(), self.human()), strict=True):
            with replacing(folder / name) as temporary:  # not sorted: the order of option groups is that of the pages
                temporary.write_text(f"{json.dumps(content)}\n", encoding="ascii")


def generate(size: int, seed: int) -> Generated:
    """Make a catalogue; equal arguments give equal catalogues on every machine.

    Args:
        size: products, 1 to 100,000.
        seed: of all draws, at least 0.

    Raises:
        SettingsError: a size or seed that is not allowed.
    """
    if not 1 <= size <= MAX_SIZE:
        raise SettingsError(f"webshop options: size={size!r}, allowed are 1 to {MAX_SIZE}")
    if seed < 0:
        raise SettingsError(f"webshop options: seed={seed!r}, allowed are 0 and above")
    words = vocabulary()
    products: list[Product] = []
    number = 0
    while len(products) < size:
        products += make_family(words, number, len(products), seed)
        number += 1
    return Generated(tuple(products[:size]), size, seed)
