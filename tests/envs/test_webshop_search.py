"""WebShop's search: tokens as Lucene's English analyzer makes them, scores as its BM25 gives them."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

pytest.importorskip("snowballstemmer")

from qlass.envs.webshop.search import Index, _held
from qlass.envs.webshop.tokens import stem, tokens, words


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("Men's T-Shirt, 2-pack", ["Men's", "T", "Shirt", "2", "pack"]),
        ("5.3 oz, 1,000 pcs; 1:2", ["5.3", "oz", "1,000", "pcs", "1", "2"]),
        ("color:red a.b 3d.mini x,y", ["color:red", "a.b", "3d.mini", "x", "y"]),
        ("face_masks _ __x 12_3", ["face_masks", "__x", "12_3"]),
        ("4\" x 3'", ["4", "x", "3"]),
        ("end. 'quoted' rock'n'roll", ["end", "quoted", "rock'n'roll"]),
        ("nescafé® 1½ 360º 9℃ it’s", ["nescafé", "®", "1", "360º", "9", "it’s"]),
        ("note：please 1⁄2 ·dot·", ["note：please", "1⁄2", "dot"]),
        ("❤️❤❤ ✔ok ★☆", ["❤️", "❤", "❤", "✔", "ok", "★"]),
        ("👨‍💼 👍🏽 🇫🇷🇩🇪", ["👨‍💼", "👍🏽", "🇫🇷", "🇩🇪"]),
        ("新茶 カタカナabc ひら 한국어", ["新", "茶", "カタカナ", "abc", "ひ", "ら", "한국어"]),
        ("soft\u00adhy\u00adphen e\u0301te", ["soft\u00adhy\u00adphen", "e\u0301te"]),
        ("x" * 300, ["x" * 255, "x" * 45]),
        (" \n\t-", []),
    ],
)
def test_words(text, expected):
    assert list(words(text)) == expected


@given(st.text(st.characters(max_codepoint=127), max_size=40))
def test_the_short_way_for_ascii_gives_the_same(text):
    assert list(words(text)) == list(words(f"{text} \u2013"))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The Women's WAISTBANDS and o'neill’s", ["women", "waistband", "o'neil"]),
        ("to be or not", []),
        ("it's that’s", []),  # nothing but stop words once the ending is gone
        ("running flies happily", ["run", "fli", "happili"]),
    ],
)
def test_tokens(text, expected):
    assert tokens(text) == expected


@pytest.mark.parametrize(
    ("word", "expected"),
    [
        ("as", "as"),  # short words stay
        ("incredibly", "incred"),
        ("assemblies", "assembl"),
        ("stably", "stabli"),  # no vowel with a consonant before the ending
        ("technology", "technolog"),
        ("technologies", "technolog"),
        ("trekking", "trek"),
        ("revved", "rev"),
        ("falling", "fall"),
        ("generously", "gener"),
    ],
)
def test_stems_where_porters_program_and_paper_differ(word, expected):
    assert stem(word) == expected


@pytest.mark.parametrize(
    ("length", "held"),
    [(0, 0), (23, 23), (39, 39), (40, 40), (41, 40), (42, 42), (55, 54), (56, 56), (59, 56), (60, 60), (127, 120),
     (128, 128), (1000, 984)],
)  # fmt: skip
def test_lengths_are_kept_in_a_byte(length, held):
    assert _held(length) == held


DOCUMENTS = (
    ("B", "red mug"),
    ("A", "red red mug with handle"),
    ("C", "blue lamp"),
    ("E", "the"),  # no token: not a document for the statistics
    ("D", "blue lamp"),
)


def test_scores_by_hand():
    index = Index.of(DOCUMENTS)
    average = (2 + 4 + 2 + 2) / 4

    def score(n_documents, frequency, length, weight=1):
        idf = math.log(1 + (4 - n_documents + 0.5) / (n_documents + 0.5))
        return weight * idf * frequency / (frequency + 0.9 * (1 - 0.4 + 0.4 * length / average))

    hits = index.search("red handles, red")
    assert [hit.name for hit in hits] == ["A", "B"]
    assert hits[0].score == pytest.approx(score(2, 2, 4, weight=2) + score(1, 1, 4), rel=1e-6)
    assert hits[1].score == pytest.approx(score(2, 1, 2, weight=2), rel=1e-6)


def test_ties_are_ordered_by_id():
    assert [hit.name for hit in Index.of(DOCUMENTS).search("lamp")] == ["C", "D"]
    many = [(f"{number:03}", "same words") for number in range(200)]
    assert [hit.name for hit in Index.of(reversed(many)).search("words")] == [name for name, _ in many[:50]]


def test_ties_at_the_border_of_the_top_are_ordered_by_id():
    mixed = [(f"{number:03}", "same" if number % 3 else "same same") for number in range(90)]
    expected = [name for name, text in mixed if text != "same"] + [name for name, text in mixed if text == "same"]
    assert [hit.name for hit in Index.of(mixed).search("same")] == expected[:50]


@pytest.mark.parametrize("query", ["", "   ", "the of and", "unknown", "!?"])
def test_queries_without_a_known_word_find_nothing(query):
    assert Index.of(DOCUMENTS).search(query) == ()


def test_documents_without_words():
    assert Index.of([("A", "the"), ("B", "")]).search("the word") == ()


@given(st.lists(st.text("abc ", max_size=30), min_size=1, max_size=80), st.text("abc ", max_size=8), st.integers(1, 9))
def test_the_best_are_the_first_of_all(texts, query, top):
    index = Index.of((f"{number:02}", text) for number, text in enumerate(texts))
    everything = index.search(query, len(texts))
    assert index.search(query, top) == everything[:top]
    assert list(everything) == sorted(everything, key=lambda hit: (-hit.score, hit.name))
    known = set(tokens(query))
    assert {hit.name for hit in everything} == {
        f"{number:02}" for number, text in enumerate(texts) if known & set(tokens(text))
    }
    assert all(np.float32(hit.score) == hit.score for hit in everything)
