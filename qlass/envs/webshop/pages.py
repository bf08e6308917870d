"""What an agent reads: the pages of the shop as upstream turns its HTML into text.

Source: convert_html_to_text of web_agent_site/envs/web_agent_text_env.py with the templates of princeton-nlp/WebShop@
64fa2a5, as BeautifulSoup 4 reads them: a text of blanks only is one blank, or nothing where it has a line break.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Literal, NamedTuple, TypeAlias

from qlass.envs.webshop.catalogue import Product
from qlass.envs.webshop.state import (
    ATTRIBUTES_PAGE,
    BACK,
    BUY,
    NEXT,
    PREVIOUS,
    SUB_PAGES,
    Shop,
    State,
)

Mode: TypeAlias = Literal["text", "text_rich"]

MODES: tuple[Mode, ...] = ("text", "text_rich")
"""text: all texts of a page in a row, which does not show chosen options; text_rich: a line each, buttons marked."""

SEPARATOR = " [SEP] "
NO_RATING = "Rating: N.A."
"""Upstream does not load ratings and reviews."""

_CACHED = 1 << 12
"""Pages that are remembered, without the instruction and what was clicked."""
_BLANKS = " \n\t\f\r"
_JSON_IN_HTML = str.maketrans({"<": "\\u003c", ">": "\\u003e", "&": "\\u0026", "'": "\\u0027"})
"""How Jinja's filter `tojson` writes what HTML would misread."""

_AROUND = re.compile(
    r"(?P<before>(?:WebShop \[SEP\] )?Instruction: \[SEP\] |(?:You have clicked .*?\n|WebShop\n)*?Instruction: ?\n)"
    r"(?P<instruction>.+?)"
    r"(?P<after> \[SEP\] (?:Search|Back to Search \[SEP\] .*)|\n\[button\] (?:Search|Back to Search) \[button_\]\n.*)",
    re.DOTALL,
)
"""Head, instruction and the rest of a page."""


class Node(NamedTuple):
    """A piece of text on a page.

    Attributes:
        kind: plain text, a button, a value of an option, or a link to a product.
        text: as on the page.
    """

    kind: Literal["text", "button", "option", "link"]
    text: str


class Pages:
    """Renders the pages of a shop."""

    def __init__(self, shop: Shop, mode: Mode) -> None:
        """Choose how pages look.

        Args:
            shop: whose pages.
            mode: see MODES.
        """
        self._shop, self._mode = shop, mode
        self._body = lru_cache(_CACHED)(self._new_body)
        self._body_text = lru_cache(_CACHED)(self._new_body_text)

    def render(self, state: State) -> str:
        """Return the observation of a state."""
        if state.place == "done":
            return self._joined(tuple(_done(state)), state)
        key = _shown(state)
        if self._mode == "text":
            head = self._joined(tuple(self._head(state)), state)
            body = self._body_text(key)
            return f"{head}{SEPARATOR}{body}"
        return self._joined((*self._head(state), *self._body(key)), state)

    def _head(self, state: State) -> Iterator[Node]:
        if state.place == "index":
            yield Node("text", "WebShop")
        yield Node("text", "Instruction: " if state.place == "index" else "Instruction:")
        yield from _texts(self._shop.goals[state.goal].instruction)

    def _new_body(self, key: State) -> tuple[Node, ...]:
        return tuple(_BODIES[key.place](self._shop, key))

    def _new_body_text(self, key: State) -> str:
        return self._joined(self._body(key), key)

    def _joined(self, nodes: tuple[Node, ...], state: State) -> str:
        if self._mode == "text":
            return SEPARATOR.join([node.text.strip() for node in nodes])
        return _rich(nodes, state)


def partition_instruction(page: str) -> tuple[str, str, str]:
    """Cut a page of either mode around the instruction: (before, instruction, after); it stands on all but the last one."""
    found = _AROUND.fullmatch(page)
    return (found["before"], found["instruction"], found["after"]) if found else (page, "", "")


def _shown(state: State) -> State:
    """Return a state with only what decides about the page below the instruction."""
    if state.place == "results":
        return State(0, "results", state.keywords, state.page)
    return State(0, state.place, asin=state.asin, sub_page=state.sub_page)


def _texts(*texts: str) -> Iterator[Node]:
    """Yield the texts that HTML keeps."""
    for text in texts:
        if text.strip(_BLANKS):
            yield Node("text", text)
        elif text and "\n" not in text:
            yield Node("text", " ")


def _buttons(*names: str) -> Iterator[Node]:
    return (Node("button", name) for name in names)


def _index(_shop: Shop, _state: State) -> Iterator[Node]:
    return _buttons("Search")


def _results(shop: Shop, state: State) -> Iterator[Node]:
    yield from _buttons(BACK)
    yield Node("text", f"Page {state.page} (Total results: {len(shop.hits(state.keywords))})")
    yield from _buttons(PREVIOUS, NEXT) if state.page > 1 else _buttons(NEXT)
    for asin in shop.listed(state):
        product = shop.product(asin)
        yield Node("link", asin)
        yield from _texts(product.title, product.price_text)


def _item(shop: Shop, state: State) -> Iterator[Node]:
    product = shop.product(state.asin)
    yield from _buttons(BACK, PREVIOUS)
    for name, values in product.options:
        yield from _texts(name)
        for value in values:
            if value:
                yield Node("option", value)
    yield from _texts(product.title, f"Price: {product.price_text}", NO_RATING)
    yield from _buttons(*SUB_PAGES, *((ATTRIBUTES_PAGE,) if shop.rules.show_attributes else ()), BUY)


def _sub(shop: Shop, state: State) -> Iterator[Node]:
    yield from _buttons(BACK, PREVIOUS)
    yield from _texts(*_sub_texts(shop.product(state.asin), state.sub_page))


def _sub_texts(product: Product, name: str) -> tuple[str, ...]:
    if name == "Description":
        return (product.description,)
    if name == "Features":
        return tuple(f" {bullet}" for bullet in product.bullets)
    if name == ATTRIBUTES_PAGE:
        attributes = (f" {attribute}" for attribute in product.attributes)
        return (*attributes, product.category, product.query, product.product_category)
    return ()


def _done(state: State) -> Iterator[Node]:
    """Yield the page after buying; upstream fills in what was bought and the reward, and nothing of the goal."""
    options = json.dumps(dict(state.options), sort_keys=True).translate(_JSON_IN_HTML)
    return _texts(
        *("Thank you for shopping with us!", "Your code: ", "None", " (Paste it in your MTurk interface.)"),
        *("Purchased", "asin", state.asin, "options", options),
        *("attrs", "None", "category", "None", "query", "None", "product category", "None"),
        *(
            "Target",
            "asin",
            "options",
            "attrs",
            "price upper",
            "instuction text",
            "category",
            "product category",
            "query",
        ),
        *("Goal ", "None", "Reward", "Your score (min 0.0, max 1.0)", str(state.reward), "Reward Details ", "None"),
    )


_BODIES = {"index": _index, "results": _results, "item": _item, "sub": _sub}


def _rich(nodes: tuple[Node, ...], state: State) -> str:
    # An option counts as clicked where the URL has it in quotes; the URL also has the query.
    url = f"{'+'.join(state.keywords)}/{state.page}/{json.dumps(dict(state.options))}"
    lines: list[str] = []
    clicked: list[str] = []
    for kind, text in nodes:
        if kind == "button":
            lines.append(f"[button] {text} [button_]")
        elif kind == "option" and f'"{text}"' in url:
            lines.append(f"  [clicked button] {text} [clicked button_]")
            clicked.append(f"You have clicked {text}.")
        elif kind == "option":
            lines.append(f"  [button] {text} [button_]")
        elif kind == "link":
            word = "clicked button" if text in state.visited else "button"
            lines.append(f"\n[{word}] {text} [{word}_]")
        else:
            lines.append(text)
    return "".join(f"{line}\n" for line in (*reversed(clicked), *lines))
