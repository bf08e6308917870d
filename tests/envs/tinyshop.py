"""A shop written by hand in the structures of WebShop's three files, with every oddity that they can have."""

from __future__ import annotations

from typing import Any

from qlass.envs.webshop.catalogue import Catalogue
from qlass.envs.webshop.goals import Goal, human_goals, synthetic_goals
from qlass.envs.webshop.nouns import lexicon
from qlass.envs.webshop.state import Rules, Shop

MUG, LAMP, SCARF, VASE = "B0TINYMUG1", "B0TINYLAMP", "B0SCARF001", "B0VASE0001"
NOUNS = lexicon({"mug", "lamp", "scarf", "vase", "candle", "harbor", "stoneware", "wool"})


def item(asin: str, name: str, /, **fields: Any) -> dict[str, Any]:
    """Return a product as the file has it; `fields` replace what it is by default."""
    usual = {
        "full_description": "",
        "small_description": ["plain"],
        "pricing": "$5.00",
        "category": "garden",
        "query": "candles",
        "product_category": "Home › Decor › Candles",
        "customization_options": "",
        "images": ["picture.jpg"],
    }
    return {"asin": asin, "name": name} | usual | fields


def values(*texts: str) -> list[dict[str, Any]]:
    """Return values of an option as the file has them."""
    return [{"value": text, "image": None} for text in texts]


ITEMS = [
    item("nan", "Left out"),
    item("B0TOOLONG01", "Left out, too"),
    item(
        MUG,
        'Harbor & Co Stoneware Mug, 4" Tall',
        full_description="Glazed by hand <in small lots>. Lead free.",
        small_description=["dishwasher safe and solid", "", "Easy to hold", "\n"],
        pricing="$8.50",
        query=" Coffee Mugs ",
        product_category="Home › Kitchen › Mugs",
        customization_options={
            "Color": values("Navy Blue", " sand "),
            "Gift": None,
            "Size": values('4" x 3"', "Large/Wide", "sand"),
        },
    ),
    item(MUG, "A second one of that id"),
    item(LAMP, "Desk Lamp with Dimmer", small_description="warm light", pricing="", query="desk lamps"),
    item(
        SCARF,
        "Écharpe d'hiver – Wool Scarf",
        pricing="$1,012.00 to $1,020.00 to $1,030.00",
        category="fashion",
        query="scarves",
        product_category="Clothing › Women › Scarves",
        customization_options={"color": values("rosé", "light blue", "kid's <3 & up")},
    ),
    item(VASE, "Stoneware Vase", query="vases", product_category="Home › Kitchen › Vases", pricing="$985.00"),
    *(item(f"B0CANDLE{number:02}", f"Soy Candle Number {number}") for number in range(12)),
]
INSTRUCTIONS = {
    MUG: {
        "attributes": ["dishwasher safe", "lead free", "hand glazed"],
        "instruction": "Find me dishwasher safe, lead free coffee mugs",
        "instruction_attributes": ["dishwasher safe", "lead free"],
    },
    LAMP: {
        "attributes": [],
        "instruction": "Find me desk lamps with warm light",
        "instruction_attributes": ["warm light"],
    },
    SCARF: {"attributes": ["soft wool"]},
}
HUMAN = {
    VASE: [
        {
            "instruction": "...i want a stoneware vase...",
            "attributes": ["unused"],
            "instruction_attributes": ["stoneware vase"],
            "instruction_options": [],
            "worker_id": "not read",
        },
        {"instruction": "anything", "instruction_attributes": [], "instruction_options": []},
    ],
    MUG: [
        {
            "instruction": "a dishwasher safe mug in navy.",
            "instruction_attributes": ["dishwasher safe"],
            "instruction_options": ["navy blue", "large | wide"],
        }
    ],
}


def catalogue() -> Catalogue:
    """Return the products."""
    return Catalogue.of(ITEMS, INSTRUCTIONS, HUMAN, seed=7)


def goal_of(shop: Shop, asin: str, *options: str) -> int:
    """Return the number of the goal with this target and these option values."""
    return next(n for n, goal in enumerate(shop.goals) if goal.asin == asin and goal.option_values == options)


def open_shop(style: str = "synthetic", **rules: bool) -> Shop:
    """Return the shop with goals of a style."""
    products = catalogue()
    goals: tuple[Goal, ...] = human_goals(products) if style == "human" else synthetic_goals(products)
    return Shop(products, goals, NOUNS, Rules(**rules))
