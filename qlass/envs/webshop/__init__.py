"""WebShop: buying what an instruction asks for in a shop of text pages, byte for byte as the original plays.

The default catalogue is generated (`webshop-generated`): no number on it can be compared with a published one. The
original's own files can be used instead, and the label says so. Everything heavy is imported on first use, so this module can be imported
without the extra `webshop`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qlass.envs.core.base import EnvDefinition, Expert, TextEnv, package_text
from qlass.records import TaskSpec


def _make(options: Mapping[str, Any]) -> TextEnv:
    from qlass.envs.webshop.adapter import WebShopEnv

    return WebShopEnv(options)


def _panels(options: Mapping[str, Any], split: str, seed: int) -> Iterator[TaskSpec]:
    from qlass.envs.webshop.panels import panels

    return panels(options, split, seed)


def _make_expert(spec: TaskSpec, seed: int) -> Expert:
    from qlass.envs.webshop.expert import WebshopExpert

    return WebshopExpert(spec, seed)


def _normalise_action(text: str) -> str:
    from qlass.envs.webshop.adapter import normalise_action

    return normalise_action(text)


def _label(options: Mapping[str, Any]) -> str:
    """Name the catalogue, the goals, and for original data the extractor of nouns, which decides about rewards.

    Numbers on two generated catalogues cannot be compared, so size and seed are named; the form of pages where it is not
    the default.
    """
    from qlass.envs.webshop.nouns import extractor
    from qlass.envs.webshop.options import Options

    chosen = Options.of(options)
    pages = f", {chosen.mode}" if chosen.mode != Options().mode else ""
    if chosen.data is None:
        return f"webshop-generated ({chosen.size:,} products, seed {chosen.seed}), {chosen.goals} goals{pages}"
    return f"WebShop, original data, {chosen.goals} goals, nouns by {extractor(chosen.nouns).kind}{pages}"


def _published(options: Mapping[str, Any]) -> bool:
    from qlass.envs.webshop.panels import plays_published

    return plays_published(options)


def _partition_task(observation: str) -> tuple[str, str, str]:
    from qlass.envs.webshop.pages import partition_instruction

    return partition_instruction(observation)


DEFINITION = EnvDefinition(
    name="webshop",
    make=_make,
    panels=_panels,
    make_expert=_make_expert,
    instruction=package_text(__name__, "instruction.txt"),
    normalise_action=_normalise_action,
    label=_label,
    categories=("beauty", "electronics", "fashion", "garden", "grocery"),
    packages=("rapidfuzz", "snowballstemmer"),
    published=_published,
    partition_task=_partition_task,
)
"""The entry point `webshop` of the group `qlass.envs`."""
