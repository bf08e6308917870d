"""The options of `webshop`, and the shop that they describe, which all engines of a process share."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from qlass.envs.core.options import read_options
from qlass.envs.webshop import nouns
from qlass.envs.webshop.catalogue import Catalogue, load
from qlass.envs.webshop.generate import MAX_SIZE, generate
from qlass.envs.webshop.generate.vocabulary import nouns as generated_nouns
from qlass.envs.webshop.goals import human_goals, synthetic_goals
from qlass.envs.webshop.pages import Mode
from qlass.envs.webshop.state import Rules, Shop
from qlass.errors import SettingsError

_STRICT = ConfigDict(strict=True, extra="forbid")
_SHOPS = 2
"""Shops that a process holds; one of 100,000 products takes about a gigabyte."""


@dataclass(frozen=True, slots=True)
class Files:
    """WebShop's own data.

    Attributes:
        items: path of items_shuffle.json or items_shuffle_1000.json.
        attributes: path of items_ins_v2.json or items_ins_v2_1000.json.
        human: path of items_human_ins.json, null where human goals are not wanted.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    items: str
    attributes: str
    human: str | None = None


@dataclass(frozen=True, slots=True)
class Options:
    """What can be set under `envs.webshop.options`.

    Attributes:
        data: WebShop's own files; null for the generated catalogue.
        size: products of the generated catalogue.
        seed: of the generated catalogue, of prices and of price caps.
        goals: synthetic (`Find me ...`, one for each combination of options) or human (as people write).
        per_product: synthetic goals of a product at most; null for all, as upstream.
        mode: what pages look like, see `pages.MODES`.
        nouns: for original data: spacy or rule; null for spacy where a model is installed, else the rule.
        show_attributes: a product's page has a button for its hidden attributes (upstream's show_attrs).
        hidden_commands: queries may begin with <c>, <q>, <a> or <r>, as upstream.
        locked: nothing can be done after buying; false: searching goes on, as upstream.
        lists: for original data: a JSON file with lists of goal numbers by split; null for upstream's ranges.
        leaked: goals of dev and tests that `lists` has in train too are kept.
    """

    __pydantic_config__: ClassVar[ConfigDict] = _STRICT

    data: Files | None = None
    size: Annotated[int, Field(ge=1, le=MAX_SIZE)] = 1000
    seed: Annotated[int, Field(ge=0)] = 0
    goals: Literal["synthetic", "human"] = "synthetic"
    per_product: Annotated[int, Field(ge=1)] | None = None
    mode: Mode = "text"
    nouns: Literal["spacy", "rule"] | None = None
    show_attributes: bool = False
    hidden_commands: bool = False
    locked: bool = True
    lists: str | None = None
    leaked: bool = False

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Read the options of params.yaml.

        Raises:
            SettingsError: an option is unknown or has a value that is not allowed.
        """
        return read_options(_OPTIONS, options, "webshop")


_OPTIONS = TypeAdapter(Options)


def open_shop(options: Options) -> Shop:
    """Return the shop of the options; a process opens it once.

    Raises:
        DataError: a file is absent, cut off, or not the one that it should be.
        DependencyNotInstalled: snowballstemmer is missing.
        SettingsError: there are no goals, or no spaCy where it is asked for.
    """
    # Pages of either kind and panels of any split belong to one shop.
    return _open(replace(options, mode="text", lists=None, leaked=False))


@lru_cache(maxsize=_SHOPS)
def _open(options: Options) -> Shop:
    if options.data is None:
        made = generate(options.size, options.seed)
        catalogue = Catalogue.of(made.items(), made.instructions(), made.human(), seed=options.seed)
        extractor = nouns.lexicon(generated_nouns())
    else:
        human = options.data.human
        catalogue = load(
            Path(options.data.items), Path(options.data.attributes), Path(human) if human else None, seed=options.seed
        )
        extractor = nouns.extractor(options.nouns)
    goals = human_goals(catalogue) if options.goals == "human" else synthetic_goals(catalogue, options.per_product)
    if not goals:
        raise SettingsError(
            f"webshop options: goals is {options.goals!r}, but the data has no such goal; set goals to the other kind, or "
            "data to files that have them"
        )
    return Shop(catalogue, goals, extractor, Rules(options.show_attributes, options.hidden_commands, options.locked))
