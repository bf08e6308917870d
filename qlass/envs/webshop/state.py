"""Where an episode stands, and what each action does: an immutable value and functions of it.

Source: web_agent_site/envs/web_agent_text_env.py and engine/engine.py, princeton-nlp/WebShop@64fa2a5.

*Differs from WebShop*, unless the rules say otherwise: commands hidden in a query are words like any others, and nothing
can be done after buying.
"""

from __future__ import annotations

import random
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from qlass.envs.webshop.catalogue import Catalogue, Product
from qlass.envs.webshop.goals import Goal
from qlass.envs.webshop.nouns import Nouns
from qlass.envs.webshop.reward import Reward, reward
from qlass.envs.webshop.search import TOP, Index

Place: TypeAlias = Literal["index", "results", "item", "sub", "done"]
"""Kinds of pages: the search bar, a list of products, a product, a part of its description, after buying."""

PER_PAGE = 10
"""Products on a page of results."""
SUB_PAGES = ("Description", "Features", "Reviews")
ATTRIBUTES_PAGE = "Attributes"
"""A sub page that shows the hidden attributes; upstream leaves its button out by default."""
BACK, PREVIOUS, NEXT, BUY = "Back to Search", "< Prev", "Next >", "Buy Now"
SEARCH = "search"
"""The button beside the search bar: it is offered, and does nothing."""

_ACTION = re.compile(r"(.+)\[(.+)\]")
_PRODUCT_ID = re.compile(r"b0[a-z0-9]{8}")
_CACHED = 1 << 13
"""Queries whose hits, and purchases whose reward, are remembered."""


class State(NamedTuple):
    """Where an episode stands.

    Attributes:
        goal: number of the goal.
        place: kind of the page.
        keywords: words of the last query; empty where there was none.
        page: number of the page of results.
        asin: the product of the page; empty where there is none.
        options: (group, value) of each chosen option, in the order of the first choice.
        sub_page: name of the sub page.
        visited: products that were opened since the last "Back to Search".
        reward: of the purchase, None before it.
    """

    goal: int
    place: Place = "index"
    keywords: tuple[str, ...] = ()
    page: int = 0
    asin: str = ""
    options: tuple[tuple[str, str], ...] = ()
    sub_page: str = ""
    visited: frozenset[str] = frozenset()
    reward: float | None = None


class Target(NamedTuple):
    """What a click leads to.

    Attributes:
        kind: a button, a product, or a value of an option.
        name: the product's id or the option's group; empty for a button.
    """

    kind: Literal["button", "product", "option"]
    name: str = ""


_BUTTON = Target("button")


@dataclass(frozen=True, slots=True)
class Rules:
    """What can be switched to be as upstream.

    Attributes:
        show_attributes: a product's page has a button for its hidden attributes.
        hidden_commands: a query that begins with <c>, <q>, <a> or <r> lists products by category, label or hidden
            attribute, or 50 of them at random. Upstream fails with <a>, and always draws others with <r>.
        locked: nothing can be done after buying; upstream still searches.
    """

    show_attributes: bool = False
    hidden_commands: bool = False
    locked: bool = True


def parse_action(text: str) -> tuple[str, str]:
    """Return the name and the argument of an action, the argument in lower case; an empty argument for no action.

    The expression is upstream's: it takes the last bracket, must match at the start only, and stops at a line's end.
    """
    match = _ACTION.match(text)
    return (match[1], match[2].lower()) if match else (text, "")


def written(name: str, argument: str) -> str:
    """Return the normal form of an action.

    Args:
        name: of the action.
        argument: in lower case, as `parse_action` returns it. It stays so, but for a product's id, which is written in
            upper case, as pages show it: so it can be copied from there.
    """
    return f"{name}[{argument.upper() if _PRODUCT_ID.fullmatch(argument) else argument}]"


class Shop:
    """The shop: pages lead to pages, for any number of episodes at a time.

    Attributes:
        catalogue: the products.
        goals: what can be asked for.
        nouns: extractor for the titles, which the reward needs.
        rules: what is switched.
        index: of the products' documents.
    """

    def __init__(self, catalogue: Catalogue, goals: Sequence[Goal], nouns: Nouns, rules: Rules) -> None:
        """Open a shop.

        Args:
            catalogue: the products.
            goals: what can be asked for.
            nouns: extractor for the titles.
            rules: what is switched.

        Raises:
            DependencyNotInstalled: snowballstemmer is missing.
        """
        self.catalogue, self.goals, self.nouns, self.rules = catalogue, tuple(goals), nouns, rules
        self._products = catalogue.by_asin
        self.index = Index.of((product.asin, product.document) for product in catalogue.products)
        self.hits = lru_cache(_CACHED)(self._hits)
        self._worth = lru_cache(_CACHED)(self._reward)
        self._item_targets = lru_cache(_CACHED)(self._item)
        self._page_clicks = lru_cache(_CACHED)(self._clicks)
        self._sub_pages = (*SUB_PAGES, ATTRIBUTES_PAGE) if rules.show_attributes else SUB_PAGES

    def product(self, asin: str) -> Product:
        """Return a product."""
        return self._products[asin]

    def listed(self, state: State) -> tuple[str, ...]:
        """Return the ids on a page of results; pages beyond the end are empty."""
        return self.hits(state.keywords)[(state.page - 1) * PER_PAGE : state.page * PER_PAGE]

    def targets(self, state: State) -> Mapping[str, Target]:
        """Return what can be clicked, in upstream's order: buttons, products, values of options.

        A value that two groups share stands for the last one. SEARCH is among them, though clicking it does nothing.
        """
        if state.place == "index":
            return {SEARCH: _BUTTON}
        if state.place == "results":
            paging = (PREVIOUS, NEXT) if state.page > 1 else (NEXT,)
            return _buttons(BACK, *paging) | {asin.lower(): Target("product", asin) for asin in self.listed(state)}
        if state.place == "item":
            return self._item_targets(state.asin)
        return _buttons(BACK, PREVIOUS) if state.place == "sub" else {}

    def clicks(self, state: State) -> tuple[str, ...]:
        """Return all clicks that do something on a page, in normal form and sorted.

        A text with a bracket can be offered in vain.
        """
        return self._page_clicks(State(0, state.place, state.keywords, state.page, state.asin))

    def apply(self, state: State, action: str) -> State | None:
        """Return the state after an action, None for an action that does nothing.

        Raises:
            DependencyNotInstalled: rapidfuzz, which buying needs, is missing.
        """
        name, argument = parse_action(action)
        if name == "search" and argument:
            return self._search(state, argument)
        if name == "click" and argument != SEARCH:
            target = self.targets(state).get(argument)
            return self._click(state, argument, target) if target else None
        return None

    def worth(self, state: State) -> Reward:
        """Return the reward, and its parts, of buying the product of the page with the chosen options."""
        return self._worth(state.goal, state.asin, state.options)

    def _search(self, state: State, argument: str) -> State | None:
        if state.place == "done" and self.rules.locked:
            return None
        return State(state.goal, "results", tuple(argument.split(" ")), 1, visited=state.visited)

    def _click(self, state: State, text: str, target: Target) -> State:
        place = self._place_by_url(state)
        if text == BUY.lower():
            return state._replace(place="done", reward=self.worth(state).total)
        if text == BACK.lower():
            return State(state.goal)
        if text in (NEXT.lower(), PREVIOUS.lower()) and place == "results":
            page = state.page + (1 if text == NEXT.lower() else -1)
            return State(state.goal, "results", state.keywords, page, visited=state.visited)
        if text == PREVIOUS.lower() and place == "item":
            return State(state.goal, "results", state.keywords, state.page, visited=state.visited)
        for name in (*SUB_PAGES, ATTRIBUTES_PAGE):
            if text == name.lower():
                return state._replace(place="sub", sub_page=name)
        if target.kind == "product":
            return state._replace(place="item", asin=target.name, visited=state.visited | {target.name})
        if target.kind == "option":
            return state._replace(options=tuple((dict(state.options) | {target.name: text}).items()))
        return state._replace(place="item", sub_page="")  # back from a sub page

    def _place_by_url(self, state: State) -> str:
        """Return the place that upstream takes the page for: it looks for the names of pages in the whole URL."""
        url = "/".join((_URL_NAMES[state.place], *state.keywords, *(text for pair in state.options for text in pair)))
        return next(place for name, place in _URL_PLACES if name in url)

    def _item(self, asin: str) -> Mapping[str, Target]:
        groups = self._products[asin].options
        return _buttons(BACK, PREVIOUS, *self._sub_pages, BUY) | {
            value: Target("option", name) for name, values in groups for value in values
        }

    def _clicks(self, state: State) -> tuple[str, ...]:
        actions = ((written("click", text), text) for text in self.targets(state) if text != SEARCH)
        return tuple(sorted(action for action, text in actions if text and parse_action(action) == ("click", text)))

    def _hits(self, keywords: tuple[str, ...]) -> tuple[str, ...]:
        if self.rules.hidden_commands and keywords[0] in _COMMANDS:
            return self._listing(keywords[0], keywords[1:])
        return tuple(hit.name for hit in self.index.search(" ".join(keywords)))

    def _listing(self, command: str, words: Sequence[str]) -> tuple[str, ...]:
        products, text = self.catalogue.products, " ".join(words).strip()
        if command == "<r>":
            return tuple(product.asin for product in random.Random(text).sample(products, min(TOP, len(products))))
        if command == "<a>":
            return tuple(product.asin for product in products if text in product.attributes)
        if command == "<q>":
            return tuple(product.asin for product in products if product.query == text)
        category = words[0].strip() if words else None
        return tuple(product.asin for product in products if product.category == category)

    def _reward(self, goal: int, asin: str, options: tuple[tuple[str, str], ...]) -> Reward:
        return reward(self.goals[goal], self._products[asin], dict(options), self.nouns)


_COMMANDS = ("<r>", "<a>", "<c>", "<q>")
_URL_NAMES = {"results": "search_results", "item": "item_page", "sub": "item_sub_page"}
_URL_PLACES = (("search_results", "results"), ("item_page", "item"), ("item_sub_page", "sub"))
"""In the order in which upstream looks for them."""


def _buttons(*names: str) -> dict[str, Target]:
    return {name.lower(): _BUTTON for name in names}
