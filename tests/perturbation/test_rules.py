"""Paraphrases by rules: nothing that is asked for is lost, whatever the text."""

from __future__ import annotations

import random
import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlass.perturbation.rules import FRAMES, PRICES, paraphrases

FRAME_WORDS = {word for frame in FRAMES for word in re.findall(r"\w+", frame)} | {
    "hello",
    "hi",
    "have",
    "order",
    "see",
}
ASK_WORDS = {"the", "should", "be", "it", "one", "in", "choose", "pick", "want", "select", "get", "this", "please"}
PRICE_WORDS = {"and", "price", "lower", "than", "below"}
FILLERS = """am are us we give shop shopping searching looking purchase love some help finding getting buying need of
interested could d i m re would"""
FREE = FRAME_WORDS | ASK_WORDS | PRICE_WORDS | set(FILLERS.split())
"""Words that rules may drop: they say nothing about what is wanted."""

EXAMPLES = (
    "i need a gluten free trail mix in size 1 lb. the flavor should be ranch, and price lower than 30.00 dollars",
    "i'm looking for a lamp that is kosher and that has no sugar in it. also, i want it in blue",
    "Find me wireless, light weight mice with long battery with color: black, and size: 3 oz., and price lower than 9.00 dollars",
    'hello, i would like to buy a 16" x 22.5" mat. it needs to be \u00e9cru, i think. pick the x-large size',
    "can you help me find boots for women. my size is 7.5. choose the tan one, and price lower than 120.00 dollars",
)


def words(text: str) -> Counter[str]:
    """Count the words that say what is wanted."""
    return Counter(word for word in re.findall(r"[^\W_]+", text.lower()) if word not in FREE)


def amount(text: str) -> str:
    """Return the number in the clause of the price."""
    return re.findall(r"(?:lower than|below) (\S+) dollars$", text)[0]


@pytest.mark.parametrize("text", EXAMPLES)
def test_what_is_wanted_stays(text: str) -> None:
    found = paraphrases(text, 30, 0)
    assert len(found) > 11
    for paraphrase in found:
        assert words(paraphrase) == words(text)
        if text.endswith("dollars"):
            assert amount(paraphrase) == amount(text)


def test_every_rule_is_used() -> None:
    """The forms that a text can take, one by one; the beginning aside."""

    def endings(text: str, start: str) -> set[str]:
        found = paraphrases(text, 300, 0)
        assert all(paraphrase.startswith(FRAMES) for paraphrase in found)
        return {paraphrase[paraphrase.index(start) :] for paraphrase in found}

    assert endings("i need a mat, and price lower than 30.00 dollars", "a mat") == {
        f"a mat{price} 30.00 dollars" for price in PRICES
    }
    assert endings("i want a mat. the flavor should be sea salt.", "a mat") == {
        "a mat. the flavor should be sea salt.",
        "a mat. i want the sea salt flavor.",
        "a mat. pick the sea salt flavor.",
    }
    assert endings("i need a mat. i need size 8", "a mat") == endings("i need a mat. the size should be 8", "a mat")
    assert endings("show me a mat. choose the navy blue one", "a mat") == {
        "a mat. i want it in navy blue",
        "a mat. choose the navy blue one",
        "a mat. pick the navy blue one",
    }
    assert endings("i need a mat. it is for pets. my son likes it", "a mat") == {
        "a mat. it is for pets. my son likes it",
        "a mat. my son likes it. it is for pets",
    }
    assert endings("get me a mat with wheels and with metal legs, and a pump", "a mat") == {
        "a mat with wheels and with metal legs, and a pump",
        "a mat with metal legs and with wheels, and a pump",
    }
    assert endings("get me mats with wheels with color: sky, and size: 2, and mode: a, b", "mats") == {
        f"mats with wheels with {', and '.join(options)}"
        for one, two, three in [("color: sky", "size: 2", "mode: a, b")]
        for options in (
            (one, two, three), (one, three, two), (two, one, three), (two, three, one), (three, one, two), (three, two, one),
        )
    }  # fmt: skip


@pytest.mark.parametrize(
    "start",
    [
        *FRAMES,
        "I am looking for",
        "hello, i'd love some help finding",
        "i would like to purchase",
        "we need",
        "looking for",
        "could you please show me",
        "please buy",
        "i want help getting",
        "i'm trying to buy",
        "i am in need of",
    ],
)
def test_beginnings_are_exchanged(start: str) -> None:
    thing = "an organic mat"
    found = paraphrases(f"{start} {thing}", 12, 3)
    assert len({paraphrase.lower() for paraphrase in found}) == 12
    expected = {f"{frame} {thing}" for frame in FRAMES}
    assert {paraphrase.lower() for paraphrase in found} < expected
    assert all(paraphrase[0].isupper() == start[0].isupper() for paraphrase in found)


@pytest.mark.parametrize(
    "text",
    [
        "my kid needs shoes",
        "get well cards for a friend",  # no request: "get" belongs to the thing
        "looking glass with a gold frame",
        "order forms, 50 sheets",
        "i want to sleep better",
        "i need it soon",
        "can you help me with a mat",
        "\u00e9charpe pour l'hiver",
        "?!",
    ],
)
def test_what_begins_like_no_request_is_kept_whole(text: str) -> None:
    found = paraphrases(text, len(FRAMES), 0)
    assert len(found) >= 12
    assert all(re.fullmatch(rf"(?:{'|'.join(FRAMES)}) this: {re.escape(text)}", paraphrase) for paraphrase in found)


def test_equal_seeds_give_equal_paraphrases() -> None:
    for text in EXAMPLES:
        assert paraphrases(text, 5, 7) == paraphrases(text, 5, 7)
        assert paraphrases(text, 3, 7) == paraphrases(text, 5, 7)[:3]
        assert len({paraphrases(text, 5, seed) for seed in range(10)}) > 8


def test_no_more_than_there_are() -> None:
    assert len(paraphrases("i need a mat", 1000, 0)) == len(FRAMES) - 1
    assert paraphrases("i need a mat", 0, 0) == ()
    for blank in ("", " ", "\n\t"):
        assert paraphrases(blank, 3, 0) == ()


PIECES = st.sampled_from(
    [
        *(f"{frame} " for frame in FRAMES), "a mat", ". ", ".", " ", ", ", " with ", " and with ", " and that ", " that ", " for ",
        "color: red", ", and size: 3 oz.", ", and price lower than 30.00 dollars", "the size should be 8", "i want it in {0}",
        "pick the \"x\" one", "\u201cok\u201d", "{value}", "\\1", "choose the 2 x 3 ft style", "\n", "also",
    ]
)  # fmt: skip


@given(st.one_of(st.text(), st.lists(PIECES).map("".join)), st.integers(1, 6), st.integers(0, 1 << 40))
def test_any_text_keeps_its_words(text: str, count: int, seed: int) -> None:
    found = paraphrases(text, count, seed)
    assert len(set(found)) == len(found)
    assert len(found) == (count if text.strip() else 0)
    assert text not in found
    for paraphrase in found:
        assert words(paraphrase) == words(text)
        assert Counter(re.findall(r"\d+(?:\.\d+)?", paraphrase)) == Counter(re.findall(r"\d+(?:\.\d+)?", text))


@pytest.mark.parametrize("kind", ["human", "synthetic"])
def test_goals_of_the_generated_catalogue(kind: str) -> None:
    """What the expert understands and what the reward asks for is in every paraphrase."""
    pytest.importorskip("rapidfuzz")
    pytest.importorskip("snowballstemmer")
    from qlass.envs.webshop.goals import NO_CAP
    from qlass.envs.webshop.options import Options, open_shop
    from qlass.envs.webshop.wishes import understand

    goals = open_shop(Options.of({"goals": kind})).goals
    for goal in random.Random(1).sample(list(goals), 400):
        wish, found = understand(goal.instruction), paraphrases(goal.instruction, 4, 0)
        assert len(found) == 4
        for paraphrase in found:
            body, *clause = re.split(r",? (?:and price )?(?=(?:lower than|below) \S+ dollars$)", paraphrase)
            assert (float(amount(paraphrase)) if clause else NO_CAP) == goal.price_upper
            again = understand(body)
            assert again.thing == wish.thing
            assert {one.name for one in again.qualities} == {one.name for one in wish.qualities}
            for value in goal.option_values:
                assert value in paraphrase
            assert words(paraphrase) == words(goal.instruction)
