"""Shops to read in, and what a reader of one episode knows.

A shop is a generated catalogue of a seed of its own, without the product types of `test_unseen`: the base model meets
neither a product of the default run's catalogue nor a word that only those types have.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from qlass.envs.webshop.catalogue import Catalogue, Product
from qlass.envs.webshop.generate import Generated, generate
from qlass.envs.webshop.generate.vocabulary import Attribute, nouns, vocabulary
from qlass.envs.webshop.goals import NO_CAP, Goal, human_goals
from qlass.envs.webshop.nouns import lexicon
from qlass.envs.webshop.pages import Pages
from qlass.envs.webshop.state import Rules, Shop, State
from qlass.errors import SettingsError

DEFAULT_SEED = 0
"""Seed of the default run's catalogue (`envs.webshop.options.seed`), which the corpus must not hold."""

_AMOUNT = re.compile(r"\d+(?:\.\d+)?")


@dataclass(frozen=True, slots=True)
class Wanted:
    """What an instruction asks for, as the shop's data have it.

    Attributes:
        thing: what customers call the kind of product.
        label: of the kind in the shop's data, which pages do not show.
        attributes: in the order in which the instruction names them.
        options: values to choose, in the same order.
        cap: dollars; None where the instruction names none.
    """

    thing: str
    label: str
    attributes: tuple[Attribute, ...]
    options: tuple[str, ...]
    cap: float | None

    @classmethod
    def of(cls, goal: Goal, thing: str) -> Wanted:
        """Take together what a goal of a generated shop asks for."""
        text = goal.instruction

        def place(*phrases: str) -> int:
            found = (re.search(rf"(?<![\w-]){re.escape(phrase)}(?![\w-])", text) for phrase in phrases)
            return min((match.start() for match in found if match), default=len(text))

        attributes = [vocabulary().attributes[key] for key in goal.attributes]
        attributes.sort(key=lambda one: place(*one.behind(), *one.asks, one.text, one.bare))
        options = tuple(sorted(goal.option_values, key=place))
        cap = None if goal.price_upper == NO_CAP else goal.price_upper
        return cls(thing, goal.query, tuple(attributes), options, cap)

    def listed(self) -> str:
        """Return all of it, for example "trail mix, gluten free, ranch, below 30"."""
        cap = [] if self.cap is None else [f"below {dollars(self.cap)}"]
        return ", ".join([self.thing, *(one.bare for one in self.attributes), *self.options, *cap])


@dataclass(frozen=True)
class World:
    """A shop as a place to read in.

    Attributes:
        shop: the shop.
        pages: its pages.
        wanted: what each of its goals asks for, by the goal's number.
    """

    shop: Shop
    pages: Pages
    wanted: Sequence[Wanted]

    @cached_property
    def goals_of(self) -> Mapping[str, Sequence[int]]:
        """Numbers of the goals with a target, by its id."""
        return _grouped(goal.asin for goal in self.shop.goals)

    @cached_property
    def goals_of_kind(self) -> Mapping[str, Sequence[int]]:
        """Numbers of the goals with a kind of target, by the label of the kind."""
        return _grouped(goal.query for goal in self.shop.goals)


def _grouped(keys: Iterable[str]) -> Mapping[str, Sequence[int]]:
    places: dict[str, list[int]] = {}
    for place, key in enumerate(keys):
        places.setdefault(key, []).append(place)
    return places


@lru_cache(maxsize=1)
def open_world(size: int, seed: int) -> World:
    """Open the shop of a catalogue's seed.

    Args:
        size: products of the catalogue before the types of test_unseen are left out.
        seed: of the catalogue, prices and price caps.

    Raises:
        SettingsError: it is the seed of the default run.
    """
    if seed == DEFAULT_SEED:
        raise SettingsError(
            f"pretrain/params.yaml: shop.corpus has catalogue seed {seed}, which is the default run's; allowed are all "
            "others; set shop.corpus.first_seed so that it is left out"
        )
    whole = generate(size, seed)
    made = Generated(tuple(product for product in whole.products if not product.kind.unseen), size, seed)
    catalogue = Catalogue.of(made.items(), made.instructions(), made.human(), seed=seed)
    shop = Shop(catalogue, human_goals(catalogue), lexicon(nouns()), Rules())
    things = {product.asin: product.kind.thing for product in made.products}
    return World(shop, Pages(shop, "text"), [Wanted.of(goal, things[goal.asin]) for goal in shop.goals])


@dataclass
class Visit:
    """An episode as a reader sees it.

    Attributes:
        world: where.
        state: of the newest page.
        opened: ids of the products that were opened, each once, in order.
        texts: what was read of each of them: its title, then the sub pages that were opened.
    """

    world: World
    state: State
    opened: list[str] = field(default_factory=list)
    texts: dict[str, list[str]] = field(default_factory=dict)

    def read(self, state: State) -> str:
        """Go to a state and return its page."""
        self.state = state
        if state.asin and state.asin not in self.texts:
            self.opened.append(state.asin)
            self.texts[state.asin] = [self.product.title]
        if state.place == "sub":
            self.texts[state.asin] += self.here()
        return self.world.pages.render(state)

    def act(self, action: str) -> str:
        """Execute an action and return the page after it.

        Raises:
            ValueError: the page does not offer it.
        """
        following = self.world.shop.apply(self.state, action)
        if following is None:
            raise ValueError(f"{action!r}: allowed here are {self.world.shop.clicks(self.state)} and searches")
        return self.read(following)

    @property
    def wanted(self) -> Wanted:
        """What the instruction asks for."""
        return self.world.wanted[self.state.goal]

    @property
    def goal(self) -> Goal:
        """The goal with its instruction."""
        return self.world.shop.goals[self.state.goal]

    @property
    def product(self) -> Product:
        """The open product."""
        return self.world.shop.product(self.state.asin)

    @property
    def offered(self) -> Mapping[str, Sequence[str]]:
        """Values that the open product offers, by group."""
        return dict(self.product.options)

    def listed(self) -> list[Product]:
        """Return the products on the page of results."""
        return [self.world.shop.product(asin) for asin in self.world.shop.listed(self.state)]

    def here(self) -> tuple[str, ...]:
        """Return the texts of the open sub page."""
        texts = {"Description": (self.product.description,), "Features": self.product.bullets}
        return tuple(text for text in texts.get(self.state.sub_page, ()) if text)

    def can(self, argument: str) -> bool:
        """Return whether `click[argument]` does something on this page."""
        return self.world.shop.apply(self.state, f"click[{argument}]") is not None


def stated(attribute: Attribute, *texts: str) -> bool:
    """Return whether one of the texts names an attribute, in the words of products."""
    return any(wording in text.lower() for text in texts for wording in (attribute.bare, attribute.key))


def prices(product: Product) -> tuple[float, ...]:
    """Return the price that pages show, or the two ends of a range (dollars)."""
    return tuple(map(float, _AMOUNT.findall(product.price_text)))


def dollars(amount: float) -> str:
    """Return an amount as thoughts and answers have it: 8.99, 40."""
    return f"{amount:g}"
