"""Labels say what was played: they follow the options."""

from __future__ import annotations

from typing import Any

import pytest

from qlass.envs import get_definition


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


def test_a_label_may_be_a_text() -> None:
    assert get_definition("corridor").label_of({"length": 5}) == "corridor (toy)"
    assert not get_definition("corridor").published({"length": 5})
