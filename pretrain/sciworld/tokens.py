"""The tokenizer of the reader of ScienceWorld: lists in few tokens, and names that two layers of attention can copy.

A token is one of
* a fixed piece of a list, an answer or a reply (`You also see:` and the line break behind it), a question of the
  thoughts, or a line of the prompt;
* a whole number from the coldest to the warmest, with its sign and the blank before it;
* a frequent word, with the blank before it where there is one;
* a piece of a rare word, down to single bytes: every text can be written.

A thing's name is the same tokens in the list, in the action, in the answer and in the thought: the article before it
belongs to the furniture, every name stands behind a blank (`unknown substance B` has one put before it in a list), and
the letter of a substance is read as a small one, as actions have it.
"""

from __future__ import annotations

import re

from tokenizers import Regex, normalizers
from transformers import PreTrainedTokenizerFast

from pretrain.alphabet import BLANK, spelled
from pretrain.circuit import Codes
from pretrain.words import Alphabet, forms, word_tokenizer
from qlass.envs.sciworld import DEFINITION
from qlass.envs.sciworld.adapter import NOT_UNDERSTOOD
from qlass.records import Message

REFUSALS = (NOT_UNDERSTOOD, "Ambiguous request:", "Unknown action.")
"""How the answer to an action begins that was not executed."""

QUESTIONS = (
    "What do I need?",
    "What must I focus on?",
    "What did I focus on?",
    "What do I have?",
    "What is empty here?",
    "What is here?",
    "What did I do last?",
    "Which box does the task name?",
    "Which box is for above?",
    "Which box is for below?",
    "Which animals are here?",
    "Which lives longest?",
    "Which lives shortest?",
    "Which plants are here?",
    "Which wires are here?",
    "Which did I connect?",
    "Which doors are here?",
    "Where am I?",
    "Where are the boxes?",
    "Where are the animals?",
    "How warm is it?",
    "Do I have",
    "Where is",
    "Did I go to",
)
"""Questions of the thoughts and the exercises, or how they begin."""

FURNITURE = (
    *REFUSALS,
    " Please enter the number for the action you intended (or blank to cancel):\n",
    "This room is called the",
    "This outside location is called the outside. Here you see: \n\tthe agent\n\ta substance called air\n",
    ". In it, you see: \n\tthe agent\n\ta substance called air\n",
    "\nYou also see:\n\tA door to the",
    "\n\tA door to the",
    " (that is open)",
    " (that is closed)",
    " (containing nothing)",
    " (containing a substance called",
    " (containing a",
    " (containing",
    ", a substance called",
    ", which is turned off. In the",
    ", which is turned off. On the",
    ", which is turned off. The",
    ", which is turned off",
    ", which is off",
    ", which is on",
    ", currently reading a temperature of",
    " degrees celsius",
    " door is open. In the",
    " door is closed",
    " is: nothing.",
    " is: a",
    " is: an",
    " is:",
    ". On the",
    ". In the",
    ". The",
    " in the adult stage",
    " with a tall height",
    " with a short height",
    "\n\ta substance called",
    "\ta substance called",
    "\n\tan",
    "\n\ta",
    "\n\tthe",
    "\n\tA",
    "\n\t",
    "\tan",
    "\ta",
    "\tthe",
    "\tA",
    ", an",
    ", a",
    "You focus on the",
    "You move the",
    " to the inventory.",
    "You teleport to the",
    "You decide to wait for 1 iterations.",
    "In your inventory, you see:",
    "the thermometer measures a temperature of",
    " is now connected to",
    "Your task is to find a(n)",
    ". First, focus on the thing. Then, move it to the",
    "Your task is to",
    "find the animal with the",
    "The animals are in the '",
    "' location.",
    "Focus on the animal with the",
    " life span",
    "use chemistry to create",
    ". When you are done, focus on the",
    "measure the temperature of",
    ", which is located around the",
    ". First, focus on the",
    ". Next, focus on the",
    ". If the",
    " temperature is above",
    " temperature is below",
    ".0 degrees celsius, place it in the",
    ". The boxes are located around the",
    "Then, create an electrical circuit that powers it on.",
    "Thought: ",
    "Action: ",
    "\nAction: ",
    "look around",
    "teleport to",
    "focus on",
    "pick up",
    " I focus on it.",
    " I take it along.",
    " I move it there.",
    " I teleport there.",
    " I look around.",
    " here?",
    "I am",
    "I need",
    ", which is deactivated. ",
    ", which is activated. ",
    " terminal 1",
    " terminal 2",
)
"""What texts and replies have in common. No piece ends with a blank that belongs to a name."""

WORDS = """am I need it It needs is the place for One is Is above below yes no none in a living thing non-living plant animal
Plants grow Animals live Living things are Such Do I use on needs pour into All that together mix there now connect to wait and see
what happens have done know"""
"""Plain words of thoughts, so that the tokenizer (not the model) knows them."""

_LINE = re.compile(r".+\n|.+")
_WORDS = r" ?-?\d+|\.\d+| ?[A-Za-z']+|\s|[^\sA-Za-z\d]"
_READ = normalizers.Sequence([
    normalizers.Replace(Regex(r"(?<=\t)(?=unknown)"), " "),
    *(normalizers.Replace(Regex(rf"(?<=substance ){letter}\b"), letter.lower()) for letter in "ABCDEFGHIJ"),
])  # fmt: skip


def train_tokenizer(conversations: list[list[Message]], settings: dict[str, int]) -> PreTrainedTokenizerFast:
    """Make the tokenizer of a corpus.

    Args:
        conversations: the corpus.
        settings: `pieces`, `word_count`, `coldest` and `warmest` of pretrain/params.yaml.
    """
    texts = {*QUESTIONS, *(f" {one}" for one in QUESTIONS), *FURNITURE, *_LINE.findall(DEFINITION.instruction)}
    fixed = sorted(texts, key=lambda text: (-len(text), text))
    # A piece that ends within a sentence ends with a whole word.
    phrases = [re.escape(text) + (r"\b" if text[-1].isalpha() else "") for text in fixed]
    numbers = range(settings["coldest"], settings["warmest"] + 1)
    whole = [*map(spelled, fixed), *(f"{BLANK}{number}" for number in numbers), ".0"]
    return word_tokenizer(conversations, Alphabet(_READ, "|".join([*phrases, _WORDS]), whole, WORDS), settings)


def codes_of(tokenizer: PreTrainedTokenizerFast) -> Codes:
    """Return which tokens start alike: the forms of a word, and numbers by their distance from absolute zero."""
    vocabulary = tokenizer.get_vocab()
    numbers = {
        number: int(token[1:]) + _ZERO for token, number in vocabulary.items() if re.fullmatch(rf"{BLANK}-?\d+", token)
    }
    return Codes(forms(vocabulary), numbers)


_ZERO = 273
"""Degrees that make every temperature a number that is not negative."""
