"""Labels say what was played: they follow the options."""

from __future__ import annotations

from typing import Any

import pytest

from qlass.envs import get_definition
from qlass.envs.webshop import nouns


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "ALFWorld engine, generated games"),
        ({"data": None, "engine": "textworld", "wording": "move"}, "ALFWorld engine, generated games"),
        ({"data": "/games"}, "ALFWorld engine, original games (json_2.1.1)"),
        ({"engine": "native"}, "ALFWorld, native engine, generated games"),
        ({"wording": "classic"}, "ALFWorld engine, generated games, classic wording"),
        (
            {"data": "/games", "engine": "native", "wording": "classic"},
            "ALFWorld, native engine, original games (json_2.1.1), classic wording",
        ),
    ],
)
def test_alfworld(options: dict[str, Any], label: str) -> None:
    definition = get_definition("alfworld")
    assert definition.label_of(options) == label
    assert definition.published(options) == bool(options.get("data"))


DATA = {"items": "items.json", "attributes": "attributes.json", "human": "human.json"}


@pytest.mark.parametrize(
    ("options", "label"),
    [
        ({}, "webshop-generated (1,000 products, seed 0), synthetic goals"),
        (
            {"data": None, "size": 10_000, "mode": "text", "goals": "human", "nouns": "rule"},
            "webshop-generated (10,000 products, seed 0), human goals",
        ),
        (
            {"size": 200, "seed": 3, "mode": "text_rich"},
            "webshop-generated (200 products, seed 3), synthetic goals, text_rich",
        ),
        ({"data": DATA, "nouns": "rule"}, "WebShop, original data, synthetic goals, nouns by rule"),
        (
            {"data": DATA, "nouns": "rule", "goals": "human", "mode": "text_rich", "size": 10_000},
            "WebShop, original data, human goals, nouns by rule, text_rich",
        ),
    ],
)
def test_webshop(options: dict[str, Any], label: str) -> None:
    definition = get_definition("webshop")
    assert definition.label_of(options) == label
    assert not definition.published(options)


def test_webshop_names_the_extractor_that_is_used(monkeypatch: pytest.MonkeyPatch) -> None:
    found = nouns.Nouns("spacy some_model 1.0", lambda title: (title,))
    monkeypatch.setattr(nouns, "extractor", lambda kind: found)
    label = get_definition("webshop").label_of({"data": DATA})
    assert label == "WebShop, original data, synthetic goals, nouns by spacy some_model 1.0"


def test_a_label_may_be_a_text() -> None:
    assert get_definition("corridor").label_of({"length": 5}) == "corridor (toy)"
    assert not get_definition("corridor").published({"length": 5})
