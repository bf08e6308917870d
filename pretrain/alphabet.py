"""What the tokenizers of both recipes share: special tokens, and text split by a pattern before it becomes bytes."""

from __future__ import annotations

from tokenizers import Regex, pre_tokenizers

SPECIAL = ["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
BLANK = "\u0120"
"""How the byte-level alphabet writes a blank."""


def split_on(pattern: str) -> pre_tokenizers.PreTokenizer:
    """Split text into the matches of a pattern, each as bytes."""
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), _bytes()])


def spelled(text: str) -> str:
    """Return a text in the byte-level alphabet, as vocabularies have it."""
    return "".join(part for part, _ in _bytes().pre_tokenize_str(text))


def _bytes() -> pre_tokenizers.PreTokenizer:
    return pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)
