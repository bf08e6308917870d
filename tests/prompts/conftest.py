"""Tokenizers built in memory: whole words for exact tables, bytes for arbitrary text."""

from collections.abc import Callable

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

WORDS = "[ ] / INST < > SYS You walk . : , Goal red room go east west enter Thought Action I see done cell 1 2 3"
SPECIAL = {
    "qlass": ("<|system|>", "<|user|>", "<|assistant|>", "<|end|>"),
    "llama-2": ("<s>", "</s>"),
}

Build = Callable[[str], PreTrainedTokenizerFast]


def _wrap(core: Tokenizer, special: tuple[str, ...]) -> PreTrainedTokenizerFast:
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token=special[-1], additional_special_tokens=list(special[:-1])
    )


@pytest.fixture(scope="session")
def word_tokenizer() -> Build:
    """Return a function: special tokens of a format and words, split at spaces and punctuation."""

    def build(name: str) -> PreTrainedTokenizerFast:
        vocabulary = {word: number for number, word in enumerate(["<unk>", *SPECIAL[name], *WORDS.split()])}
        core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.WhitespaceSplit(), pre_tokenizers.Punctuation()])
        return _wrap(core, SPECIAL[name])

    return build


@pytest.fixture(scope="session")
def byte_tokenizer() -> Build:
    """Return a function: special tokens of a format and one token per byte, so that every text has ids of its own."""

    def build(name: str) -> PreTrainedTokenizerFast:
        symbols = ["<unk>", *SPECIAL[name], *sorted(pre_tokenizers.ByteLevel.alphabet())]
        core = Tokenizer(models.BPE({symbol: number for number, symbol in enumerate(symbols)}, [], unk_token="<unk>"))
        core.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
        core.decoder = decoders.ByteLevel()
        return _wrap(core, SPECIAL[name])

    return build
