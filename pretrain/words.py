"""Tokenizers of words: fixed pieces and frequent words are one token each, rare words are spelled."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, trainers
from transformers import PreTrainedTokenizerFast

from pretrain.alphabet import BLANK, SPECIAL, spelled, split_on
from qlass.records import Message


class Alphabet(NamedTuple):
    """What a tokenizer of words knows before it has seen a corpus.

    Attributes:
        normalizer: how texts are read before they are split.
        pattern: its matches are tokens, or are spelled in pieces.
        whole: tokens in the byte-level alphabet, whatever the corpus has.
        plain: words that become tokens, each behind a blank.
    """

    normalizer: normalizers.Normalizer
    pattern: str
    whole: Sequence[str]
    plain: str


def word_tokenizer(
    conversations: Sequence[Sequence[Message]], alphabet: Alphabet, settings: Mapping[str, int]
) -> PreTrainedTokenizerFast:
    """Make the tokenizer of a corpus.

    Args:
        conversations: the corpus.
        alphabet: what is known before.
        settings: `pieces` (tokens for rare words) and `word_count` (a word that the corpus has this often is a token).
    """
    split = split_on(alphabet.pattern)
    tokenizer = Tokenizer(models.BPE())
    tokenizer.normalizer = alphabet.normalizer
    tokenizer.pre_tokenizer = split
    tokenizer.decoder = decoders.ByteLevel()
    texts = [message.content for conversation in conversations for message in conversation if message.role != "system"]
    counts: Counter[str] = Counter()
    for text in texts:
        counts.update(part for part, _ in split.pre_tokenize_str(alphabet.normalizer.normalize_str(text)))
    words = {word: count for word, count in counts.items() if re.fullmatch(rf"{BLANK}?[A-Za-z']+", word)}
    frequent = sorted(word for word, count in words.items() if count >= settings["word_count"])
    frequent += [spelled(f" {word}") for word in re.findall(r"[A-Za-z']+", alphabet.plain)]
    # Pieces are learned from the words themselves, each once: what rare words are made of.
    trainer = trainers.BpeTrainer(
        vocab_size=settings["pieces"],
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator([word.replace(BLANK, " ") for word in sorted(words)], trainer)
    described = json.loads(tokenizer.to_str())
    described["model"]["ignore_merges"] = True  # what is a token as a whole is never made of pieces
    vocabulary = described["model"]["vocab"]
    for token in [*alphabet.whole, *frequent]:
        vocabulary.setdefault(token, len(vocabulary))
    made = Tokenizer.from_str(json.dumps(described))
    return PreTrainedTokenizerFast(tokenizer_object=made, pad_token="<|pad|>", eos_token="<|end|>")


def forms(vocabulary: Mapping[str, int]) -> list[tuple[int, int, int]]:
    """Return (token, root, token) for the forms of a word (`Khaki`, `khaki` and ` khaki`), as `Codes.kin` wants them."""
    kin = []
    for token, number in sorted(vocabulary.items()):
        if re.fullmatch(rf"{BLANK}?[A-Za-z']{{2,}}", token):
            root = vocabulary.get(BLANK + token.lstrip(BLANK).lower())
            if root is not None and root != number:
                kin.append((number, root, number))
    return kin
