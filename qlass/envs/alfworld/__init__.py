"""ALFWorld: household tasks in text, played in ALFWorld's own engine on games generated from ALFRED's tables.

The options choose other games (`data`) and another engine (`engine`), and the label says so.

Everything heavy is imported on first use, so this module can be imported without the extra `alfworld`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qlass.envs.core.base import EnvDefinition, Expert, TextEnv, package_text
from qlass.records import TaskSpec


def _make(options: Mapping[str, Any]) -> TextEnv:
    from qlass.envs.alfworld.adapter import AlfworldEnv

    return AlfworldEnv(options)


def _panels(options: Mapping[str, Any], split: str, seed: int) -> Iterator[TaskSpec]:
    from qlass.envs.alfworld.panels import panels

    return panels(options, split, seed)


def _make_expert(spec: TaskSpec, seed: int) -> Expert:
    from qlass.envs.alfworld.expert import AlfworldExpert

    return AlfworldExpert(spec, seed)


def _normalise_action(text: str) -> str:
    from qlass.envs.alfworld.adapter import normalise_action

    return normalise_action(text)


def _label(options: Mapping[str, Any]) -> str:
    """Name the engine and the games; the wording is named where it is not the default."""
    engine = "ALFWorld, native engine" if options.get("engine") == "native" else "ALFWorld engine"
    games = "original games (json_2.1.1)" if options.get("data") else "generated games"
    wording = ", classic wording" if options.get("wording") == "classic" else ""
    return f"{engine}, {games}{wording}"


DEFINITION = EnvDefinition(
    name="alfworld",
    make=_make,
    panels=_panels,
    make_expert=_make_expert,
    instruction=package_text(__name__, "instruction.txt"),
    normalise_action=_normalise_action,
    label=_label,
    categories=("put", "look", "clean", "heat", "cool", "two"),
    packages=("alfworld", "fast-downward-textworld", "textworld"),
    published=lambda options: bool(options.get("data")),
)
"""The entry point `alfworld` of the group `qlass.envs`."""
