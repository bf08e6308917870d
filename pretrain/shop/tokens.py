"""The tokenizer of the shop reader: pages in few tokens, and names that two layers of attention can copy.

A token is one of
* a fixed piece of every page or reply (` [SEP] Rating: N.A. [SEP] ... [SEP] Buy Now`), of `FURNITURE` or of the prompt;
* two characters of an id after its `B0`;
* a whole number, or the cents behind it;
* a frequent word, with the blank before it where there is one;
* a piece of a rare word, down to single bytes: every text can be written.

Why two characters: an id is then five tokens, and a pair stands rarely twice in a conversation (there are 1,296), so
whatever followed it the last time is right; of single characters every one stands on a page twice. Three would be
46,656 tokens. Why whole numbers: a price and a cap are compared as two tokens, whose embeddings start as points on a
line (`pretrain.circuit`), and not digit by digit.

A page's separator keeps its blanks, so that a value is the same tokens on the page and in `click[...]`.

Words of titles and buttons are read in lower case, as instructions and thoughts have them: a title states a property in
other capitals, and no model of this size learned to see that. Ids, abbreviations, `Thought`, `Action` and the words
that begin a further sentence keep theirs, so what the policy writes survives.
"""

from __future__ import annotations

import re

from tokenizers import Regex, normalizers
from transformers import PreTrainedTokenizerFast

from pretrain.alphabet import BLANK, spelled
from pretrain.circuit import Codes
from pretrain.words import Alphabet, forms, word_tokenizer
from qlass.envs.webshop import DEFINITION
from qlass.records import Message

FURNITURE = (
    "WebShop [SEP] Instruction: [SEP] ",
    "Instruction: [SEP] ",
    ", and price lower than ",
    ".00 dollars",
    " [SEP] Search",
    " [SEP] Back to Search [SEP] ",
    " below ",
    "Page ",
    " (Total results: ",
    ") [SEP] ",
    "< Prev [SEP] ",
    "< Prev",
    "Next >",
    " [SEP] B0",
    " [SEP] $",
    " [SEP] Price: $",
    " [SEP] Rating: N.A. [SEP] Description [SEP] Features [SEP] Reviews [SEP] Buy Now",
    " [SEP] ",
    "Thought: ",
    "Action: ",
    "\nAction: ",
    "search[",
    "click[",
    "back to search]",
    "< prev]",
    "next >]",
    "buy now]",
)
"""What pages and replies have in common."""

WORDS = """I I'm need search look for it in the shop. Let me see open at this one. nothing else here fits. turn page. no
more next none of these is right. costs below not saw chose choose and offered? yes. buy take did but found better.
read features description title go back to item results. stated"""
"""Plain words of thoughts about shopping, so that the tokenizer (not the model) knows them."""

_PAIR = r"(?<=\bB0|\bB0[0-9A-Z]{2}|\bB0[0-9A-Z]{4}|\bB0[0-9A-Z]{6})[0-9A-Z]{2}"
_WORDS = rf" ?B0(?=[0-9A-Z]{{8}}\b)|{_PAIR}|\d+|\.\d+| ?[A-Za-z']+|\s|[^\sA-Za-z\d]"
_LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ"
_ALPHABET = "0123456789" + _LETTERS
_KEPT = {"A": "(?!ction:)", "T": "(?!hought:)"}
_LOWER = normalizers.Sequence([
    normalizers.Replace(Regex(rf"(?<![A-Za-z0-9'\n]|[.?!:] ){letter}{_KEPT.get(letter, '')}(?=[a-z])"), letter.lower())
    for letter in _LETTERS
])  # fmt: skip
"""Lower case for the first letter of a word that does not begin a further sentence."""


def train_tokenizer(conversations: list[list[Message]], settings: dict[str, int]) -> PreTrainedTokenizerFast:
    """Make the tokenizer of a corpus.

    Args:
        conversations: the corpus.
        settings: `pieces`, `word_count` and `numbers` of pretrain/params.yaml.
    """
    prompt = re.findall(r".*\n|.+", _LOWER.normalize_str(DEFINITION.instruction))
    fixed = sorted({*map(_LOWER.normalize_str, FURNITURE), *prompt}, key=lambda text: (-len(text), text))
    # An id's mark behind a separator is fixed only where an id follows.
    phrases = [re.escape(text) + (r"(?=[0-9A-Z]{8}\b)" if text.endswith("B0") else "") for text in fixed]
    pairs = (a + b for a in _ALPHABET for b in _ALPHABET)
    cents = (".49", ".99", ".0", ".00")
    whole = [*map(spelled, fixed), "B0", f"{BLANK}B0", *pairs, *map(str, range(settings["numbers"])), *cents]
    return word_tokenizer(conversations, Alphabet(_LOWER, "|".join([*phrases, _WORDS]), whole, WORDS), settings)


def codes_of(tokenizer: PreTrainedTokenizerFast) -> Codes:
    """Return which tokens start alike: the forms of a word (` khaki`, `khaki`), and numbers by their size."""
    vocabulary = tokenizer.get_vocab()
    numbers = {number: int(token) for token, number in vocabulary.items() if re.fullmatch(r"0|[1-9]\d*", token)}
    return Codes(forms(vocabulary), numbers)
