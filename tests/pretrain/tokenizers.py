"""What tests of tokenizers share."""

from pathlib import Path

from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from qlass.models.folders import load_tokenizer


def words(tokenizer: PreTrainedTokenizerBase, text: str) -> list[str]:
    """Return the text of each token of a text."""
    return [tokenizer.decode([token]) for token in tokenizer.encode(text)]


def saved(tokenizer: PreTrainedTokenizerFast, folder: Path) -> PreTrainedTokenizerBase:
    """Return a tokenizer as the pipeline reads it from a folder."""
    tokenizer.save_pretrained(folder)
    return load_tokenizer(folder)
