"""Paraphrases by rules of English, for instructions such as those of WebShop; no model is asked.

What is asked for stays letter by letter: no rule touches a word that could be a product, a property, a value, a name or
a number, because an agent copies these into its actions. The rules change
* how the request begins ("i am looking for ..." becomes "find me ...");
* the order of the sentences behind the first one, and of options in the form `color: black, and size: large`;
* the order of two clauses that begin with the same word ("that is kosher and that has no sugar in it");
* how a sentence asks for an option ("the flavor should be ranch" becomes "i want the ranch flavor");
* how the clause of the price begins.

The forms are those in which people ask in shops, and few: a small model that has learned to read instructions of one
catalogue knows no others, and what it cannot read it cannot propose an action for. So the product stays in the first
sentence, the price at the end, and its clause has only words that thoughts about prices have, too.

A text that begins like no request is put behind one ("find me this: ..."), so that every text has paraphrases.
"""

from __future__ import annotations

import random
import re
from collections.abc import Iterator
from itertools import islice

from qlass.seeds import derive_seed

FRAMES = (
    "i need", "i am looking for", "i'm looking for", "find me", "i want to buy", "please find", "can you help me find",
    "i would like", "show me", "get me", "i want", "i'm interested in", "i am trying to find", "please help me buy",
)  # fmt: skip
"""How a request can begin; what is wanted follows."""
PRICES = (", and price lower than", ", and price below", ", below")
"""How the clause of the price can begin; the amount and "dollars" follow."""

_GET = "(?:buy|find|get|have|order|purchase|see)"
_HELP = "(?: (?:some )?help (?:buying|finding|getting))?"
_I_AM = "(?:i am|i'm|we are|we're)"
_PLEASE = "(?:please |(?:can|could) you (?:please )?)"
_HELP_ME = "(?:help me (?:to )?)"
_REQUESTS = (
    rf"(?:i|we) (?:need|want|would like|would love)(?: to {_GET})?{_HELP}",
    rf"(?:i|we)'d (?:like|love)(?: to {_GET})?{_HELP}",
    rf"{_I_AM} (?:looking|searching|shopping)(?: to {_GET}| for)?",
    rf"{_I_AM} (?:in need of|interested in(?: buying| finding| getting)?|trying to {_GET})",
    r"(?:looking|searching) for",
    rf"{_PLEASE}{_HELP_ME}?(?:buy|find|get|give|order|show)(?: me)?",
    rf"{_HELP_ME}(?:buy|find|get)",
    r"(?:buy|find|get|give|order|show) me",
)
_NO_THING = "(?:about|am|at|for|help|in|is|it|that|them|this|to|you)"
_OPENING = re.compile(
    rf"\s*(?:(?:hello|hi)[,.!]? +)?(?:{'|'.join(_REQUESTS)})\s+(?!{_NO_THING}\b)(?=\w)", re.IGNORECASE
)
"""The beginning of a request; what follows can stand behind every frame."""
_PRICE = re.compile(r", and price lower than (?P<amount>[\d.]*\d) dollars\s*$")
_FIRST_OPTION = re.compile(r" with (?=(?:(?!with )[a-z ])+: )")
_NEXT_OPTION = re.compile(r", and (?=[a-z][a-z ]*: )")
_NEXT_SENTENCE = re.compile(
    r"\.\s+(?=(?:also|and|choose|find|get|i|i'd|i'm|it|its|look|make|must|my|pick|please|should|the|they)\b)"
)
_PAIR = re.compile(r"(?P<head>.*) (?P<word>for|that|which|with|without) (?P<one>.+) and (?P=word) (?P<other>[^,]+)")
_GROUP = "(?P<group>colou?r|fit|flavou?r|pattern|scent|size|style)"
_VALUE = "(?P<value>(?:(?! (?:and|but|for|or|that|which|with) )[^,;])+)"
_CHOOSE = "(?:choose|get|i like|i need|i want|i would like|pick|select)"
_ASKS = (
    (
        tuple(
            re.compile(form)
            for form in (
                f"the {_GROUP} should be {_VALUE}",
                f"{_CHOOSE} the {_VALUE} {_GROUP}",
                f"i need {_GROUP} {_VALUE}",
            )
        ),
        ("the {group} should be {value}", "i want the {value} {group}", "pick the {value} {group}"),
    ),
    (
        (re.compile(f"{_CHOOSE} (?:it|one) in {_VALUE}"), re.compile(f"{_CHOOSE} the {_VALUE} one")),
        ("i want it in {value}", "choose the {value} one", "pick the {value} one"),
    ),
)
"""Sentences that ask for an option, and how else they can be said."""


def paraphrases(text: str, count: int, seed: int) -> tuple[str, ...]:
    """Return different paraphrases of an instruction, none of which is the text itself.

    Args:
        text: the instruction, which may be any text.
        count: how many; the rules may know fewer, and know none of a text of blanks.
        seed: equal seeds give equal paraphrases.
    """
    rng = random.Random(derive_seed(seed, text))
    found: dict[str, None] = {}
    if text.strip():
        for frame in islice(_frames(rng), len(FRAMES) * count):
            if len(found) == count:
                break
            if not text.lstrip().lower().startswith(f"{frame} "):  # as it begins now
                found[_reworded(text, frame, rng)] = None
    return tuple(found)


def _frames(rng: random.Random) -> Iterator[str]:
    """Yield frames for ever, each as often as any other."""
    while True:
        yield from rng.sample(FRAMES, len(FRAMES))


def _reworded(text: str, frame: str, rng: random.Random) -> str:
    """Return a text that begins with a frame, the rest drawn."""
    body, price = text, ""
    if found := _PRICE.search(text):
        body, price = text[: found.start()], f"{rng.choice(PRICES)} {found['amount']} dollars"
    body, options = _options_apart(body, rng)
    stop = "." if body.endswith(".") else ""
    first, *others = _NEXT_SENTENCE.split(body.removesuffix("."))
    others = [_asked(other, rng) for other in others]
    rng.shuffle(others)
    return ". ".join([_begun(_swapped(first, rng), frame), *others]) + stop + options + price


def _options_apart(text: str, rng: random.Random) -> tuple[str, str]:
    """Return a text without the options at its end, and these in an order that is drawn; the second may be empty."""
    first = _FIRST_OPTION.search(text)
    if first is None:
        return text, ""
    options = _NEXT_OPTION.split(text[first.end() :])
    rng.shuffle(options)
    return text[: first.start()], f" with {', and '.join(options)}"


def _begun(sentence: str, frame: str) -> str:
    """Return a sentence that begins with a frame, as large or small as it began before."""
    frame = frame.capitalize() if sentence.lstrip()[:1].isupper() else frame
    if opening := _OPENING.match(sentence):
        return f"{frame} {sentence[opening.end() :]}"
    return f"{frame} this: {sentence}"


def _swapped(sentence: str, rng: random.Random) -> str:
    """Return a sentence with two of its clauses in another order, or as it is."""
    pair = _PAIR.match(sentence)
    if pair is None or rng.random() < 0.5:
        return sentence
    head, word, one, other = pair.groups()
    return f"{head} {word} {other} and {word} {one}{sentence[pair.end() :]}"


def _asked(sentence: str, rng: random.Random) -> str:
    """Return a sentence that asks for an option in one of the forms for that; others as they are."""
    for patterns, forms in _ASKS:
        for pattern in patterns:
            if found := pattern.fullmatch(sentence):
                return rng.choice(forms).format(**found.groupdict())
    return sentence
