"""A demonstrator for WebShop that shops as people do: it knows what it has read, and nothing else.

It understands the instruction, searches, and opens a hit whose title and price do not speak against it. On the item page
it looks for the options, then for each property that is asked for: in the title, in the features, in the description. It
chooses the options and buys when everything was seen, and else goes back to the next hit, the next page, or another
query. Its thoughts ask for one constraint after the other, and answer, before they decide: a small model can answer
each question alone, but not all of them at once (as in `alfworld.expert`).

It has `PATIENCE` steps; when they run out, it buys what spoke least against it.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field

from qlass.envs.webshop.state import BUY, NEXT, PREVIOUS, written
from qlass.envs.webshop.wishes import Wish, understand
from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec
from qlass.seeds import derive_seed

PATIENCE = 15
"""Steps after which it wants to have bought (upstream's baselines: 100, ETO: 10)."""

_PAGES = 2
"""Result pages that it reads of one query."""
_AMOUNT = re.compile(r"\d+(?:\.\d+)?")
_COUNT = re.compile(r"Page (\d+) \(Total results: (\d+)\)")
_PER_PAGE = 10
_CLICKED = "You have clicked "
_SUB_PAGES = ("Features", "Description")


@dataclass(slots=True)
class _Item:
    """What was read of a product.

    Attributes:
        asin: its id, as pages show it.
        title: as pages show it.
        low: price in dollars, the lower end of a range.
        high: the upper end.
        offered: option values; None while its page was not opened.
        read: titles of the sub pages that were read.
        seen: names of the properties that were seen.
        doubted: properties that the title does not state; None while that was not asked.
        rejected: something spoke against it.
    """

    asin: str
    title: str
    low: float
    high: float
    offered: tuple[str, ...] | None = None
    read: list[str] = field(default_factory=list)
    seen: list[str] = field(default_factory=list)
    doubted: list[str] | None = None
    rejected: bool = False


class WebshopExpert:
    """Plays one episode from observations alone, in either of their forms; equal observations give equal actions.

    Args:
        spec: not read; an agent does not see it either.
        seed: chooses between wordings of a thought.
    """

    def __init__(self, spec: TaskSpec, seed: int) -> None:
        del spec
        self._seed = seed
        self._rng = random.Random(seed)
        self._wish: Wish | None = None
        self._items: dict[str, _Item] = {}
        self._here: list[str] = []  # ids on the results page at hand
        self._page = 0
        self._total = 0
        self._item: _Item | None = None  # whose page is open
        self._sub_page = ""  # title of the sub page that is open, or was a step ago
        self._misfit = ""  # id of the item that was just turned down
        self._chosen: list[str] = []
        self._query = 0
        self._steps = 0

    def act(self, observation: str) -> tuple[str, str]:
        """Return (thought, action in normal form) for the newest observation.

        Raises:
            EnvironmentFault: it is no page of an unfinished episode.
        """
        parts = _segments(observation)
        self._steps += 1
        if parts[:2] == ["WebShop", "Instruction:"]:
            wish = self._learn_wish(parts[2])
            return self._search(wish, f"I need: {self._listed(wish)}.")
        if len(parts) < 4 or parts[0] != "Instruction:":
            raise EnvironmentFault(f"no page of WebShop: {observation[:120]!r}")
        wish = self._learn_wish(parts[1])
        if count := _COUNT.fullmatch(parts[3]):
            self._learn_results(parts, int(count[1]), int(count[2]))
            return self._choose_hit(wish)
        if self._item is None:
            raise EnvironmentFault(f"a page of an item that was not opened: {observation[:120]!r}")
        if parts[-1] == BUY:
            self._learn_item(self._item, parts, wish)
            return self._check(self._item, wish)
        self._learn_texts(self._item, parts[4:], wish)
        return self._leave_sub_page(self._item)

    # What it learns

    def _learn_wish(self, instruction: str) -> Wish:
        if self._wish is None:
            self._wish = understand(instruction)
            self._rng = random.Random(derive_seed("webshop expert", self._seed, instruction))
        return self._wish

    def _learn_results(self, parts: Sequence[str], page: int, total: int) -> None:
        self._page, self._total = page, total
        self._item, self._chosen, self._here = None, [], []
        hits = parts[parts.index(NEXT) + 1 :]
        while len(hits) >= 2:
            asin, *hits = hits
            title = "" if hits[0].startswith("$") else hits.pop(0)
            low, high = _price(hits.pop(0))
            self._items.setdefault(asin, _Item(asin, title, low, high))
            self._here.append(asin)

    def _learn_item(self, item: _Item, parts: Sequence[str], wish: Wish) -> None:
        price = next(place for place, part in enumerate(parts) if part.startswith("Price: "))
        item.offered = tuple(parts[4 : price - 1])
        self._learn_texts(item, [item.title], wish)

    def _learn_texts(self, item: _Item, texts: Sequence[str], wish: Wish) -> None:
        for quality in wish.qualities:
            if quality.name not in item.seen and any(map(quality.stated_in, texts)):
                item.seen.append(quality.name)

    # What it does

    def _search(self, wish: Wish, why: str) -> tuple[str, str]:
        query = wish.queries[min(self._query, len(wish.queries) - 1)]
        self._query += 1
        return (
            f"{why} {self._say('I search for it.', 'Let me search.', 'I look for it in the shop.')}",
            written("search", query),
        )

    def _choose_hit(self, wish: Wish) -> tuple[str, str]:
        """Open the best hit that nothing speaks against, or go on."""
        for asin in self._here:
            item = self._items[asin]
            item.rejected = item.rejected or item.low >= wish.cap or not _is_kind(item, wish)
        left = PATIENCE - self._steps
        hits = [self._items[asin] for asin in self._here if not self._items[asin].rejected]
        if hits and (left > 2 + len(wish.options) or not self._opened()):
            return self._open(max(hits, key=lambda item: _promise(item, wish)), wish)
        known = [self._items[asin] for asin in self._here]
        if known and (left <= 2 + len(wish.options) or self._query >= len(wish.queries)):
            return self._open(max(known, key=lambda item: _promise(item, wish)), wish)
        if self._page < _PAGES and self._page * _PER_PAGE < self._total:
            return self._say("Nothing else here fits. I turn the page.", "No more here. Next page."), _click(NEXT)
        return self._search(wish, self._say("Nothing here fits.", "None of these is right."))

    def _opened(self) -> list[_Item]:
        return [item for item in self._items.values() if item.offered is not None]

    def _open(self, item: _Item, wish: Wish) -> tuple[str, str]:
        self._item = item
        reason = f"{self._misfit} did not fit. " if self._misfit else ""
        self._misfit = ""
        reason += f"{item.asin} costs {_dollars(item.low)}"
        if wish.cap < float("inf"):
            reason += f", {'below' if item.low < wish.cap else 'not below'} {_dollars(wish.cap)}"
        return f"{reason}. {self._say('I open it.', 'I look at it.', 'Let me see it.')}", _click(item.asin)

    def _check(self, item: _Item, wish: Wish) -> tuple[str, str]:
        """Check one constraint after the other; buy when all were seen."""
        offered = item.offered or ()
        wanted = _wanted(offered, wish)
        # Another look costs two more steps, and another item too.
        hurry = PATIENCE - self._steps < 2 + len(wanted) - len(self._chosen)
        missing = next((option for option in wish.options if option not in offered), None)
        unseen = [quality.name for quality in wish.qualities if quality.name not in item.seen]
        found = self._ask(item, wish)
        if not hurry and not item.rejected:
            if missing:
                return self._reject(item, found)
            if unseen:
                return self._look_further(item, found)
        option = next((option for option in wanted if option not in self._chosen), None)
        found += f"I chose {' and '.join(self._chosen)}. " if self._chosen else ""
        if option:
            self._chosen.append(option)
            return f"{found}I choose {option}.", _click(option)
        lacking = [*([missing] if missing else []), *unseen]
        doubt = f"I did not see {' and '.join(lacking)}, but I found nothing better. " if lacking else ""
        return f"{found}{doubt}{self._say('I buy it.', 'I take this one.')}", _click(BUY)

    def _ask(self, item: _Item, wish: Wish) -> str:
        """Ask whether an item has what is needed, as far as what was just read says it."""
        if item.doubted is None:
            item.doubted = [one.name for one in wish.qualities if not one.stated_in(item.title)]
            return _answered(_first_questions(item, wish))
        page, self._sub_page = self._sub_page.lower(), ""
        found = _answered((f"{name} in the {page}", name in item.seen) for name in item.doubted if page)
        item.doubted = [name for name in item.doubted if name not in item.seen]
        return found

    def _look_further(self, item: _Item, found: str) -> tuple[str, str]:
        """Open the next sub page that may state what was not seen, or turn the item down."""
        page = next((page for page in _SUB_PAGES if page not in item.read), None)
        others = [asin for asin in self._here if asin != item.asin and not self._items[asin].rejected]
        if page is None or (page == _SUB_PAGES[1] and others):
            return self._reject(item, found)
        item.read.append(page)
        self._sub_page = page
        return f"{found}I read the {page.lower()}.", _click(page)

    def _leave_sub_page(self, item: _Item) -> tuple[str, str]:
        found = _answered((f"{name} stated here", name in item.seen) for name in item.doubted or ())
        return f"{found}{self._say('I go back.', 'Back to the item.')}", _click(PREVIOUS)

    def _reject(self, item: _Item, why: str) -> tuple[str, str]:
        item.rejected = True
        self._misfit = item.asin
        return f"{why}{self._say('I go back to the results.', 'Not this one. I go back.')}", _click(PREVIOUS)

    # What it says

    def _listed(self, wish: Wish) -> str:
        """Return what is needed, for example "trail mix, gluten free, ranch, below 30"."""
        needs = [quality.name for quality in wish.qualities] + list(wish.options)
        needs += [f"below {_dollars(wish.cap)}"] if wish.cap < float("inf") else []
        return ", ".join([wish.thing, *needs])

    def _say(self, *wordings: str) -> str:
        return self._rng.choice(wordings)


def _first_questions(item: _Item, wish: Wish) -> Iterator[tuple[str, bool]]:
    """Yield what is asked of an item whose page is new, with the answers; an option that is missing decides."""
    for option in wish.options:
        offered = option in (item.offered or ())
        yield f"{option} offered", offered
        if not offered:
            return
    for quality in wish.qualities:
        yield f"{quality.name} in the title", quality.stated_in(item.title)


def _answered(answers: Iterable[tuple[str, bool]]) -> str:
    """Write questions with their answers."""
    return "".join(f"Is {what}? {'yes' if right else 'no'}. " for what, right in answers)


def _click(text: str) -> str:
    return written("click", text.lower())


def _segments(observation: str) -> list[str]:
    """Return the texts of a page, whichever form it has."""
    if "[SEP]" in observation:
        return [part.strip() for part in observation.split("[SEP]")]
    lines = [re.sub(r"\[(?:clicked )?button_?\]", "", line).strip() for line in observation.splitlines()]
    return [line for line in lines if line and not line.startswith(_CLICKED)]


def _price(text: str) -> tuple[float, float]:
    """Return the ends of `$19.99 to $27.99`, twice the same for one price."""
    amounts = [float(amount) for amount in _AMOUNT.findall(text)]
    return amounts[0], amounts[-1]


def _promise(item: _Item, wish: Wish) -> tuple[float, ...]:
    """Return how much speaks for an item, compared from left to right; the first of equals stands higher on the page."""
    stated = sum(quality.name in item.seen or quality.stated_in(item.title) for quality in wish.qualities)
    options = sum(option in (item.offered or ()) for option in wish.options)
    return (_is_kind(item, wish), item.low < wish.cap, item.high < wish.cap, stated + options)


def _is_kind(item: _Item, wish: Wish) -> bool:
    """Return whether a title has the words of the kind of product that is asked for."""
    words = item.title.lower().replace(",", "").split()
    return all(mark in words for mark in wish.marks)


def _wanted(offered: Sequence[str], wish: Wish) -> list[str]:
    """Return the offered values that are asked for, also in words that were not understood."""
    wanted = [option for option in wish.options if option in offered]
    spare = f" {wish.rest} "
    for value in sorted(offered, key=lambda value: (-len(value), value)):
        if f" {value} " in spare:
            spare = spare.replace(f" {value} ", "  ", 1)
            wanted.append(value)
    return wanted


def _dollars(amount: float) -> str:
    return f"{amount:g}"
