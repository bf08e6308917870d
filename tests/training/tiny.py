"""A tiny random Llama policy with its tokenizer, built in memory: no download, saved in a moment."""

from pathlib import Path

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qlass.records import Step, Trajectory

SPECIAL = ["<unk>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = "you are in a room go to left right take key open door done see nothing Thought : Action I must . , 0 1 2 3 4 5 6 7 8 9"
INSTRUCTION = "you are in a room . go to door"


def tokenizer() -> PreTrainedTokenizerFast:
    """Whole words, split at spaces and punctuation."""
    vocabulary = {word: number for number, word in enumerate([*SPECIAL, *WORDS.split()])}
    core = Tokenizer(models.WordLevel(vocabulary, unk_token="<unk>"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    return PreTrainedTokenizerFast(
        tokenizer_object=core, unk_token="<unk>", eos_token="<|end|>", additional_special_tokens=SPECIAL[1:4]
    )


def model(seed: int = 0, *, hidden: int = 32, layers: int = 2, vocab: int = 64) -> LlamaForCausalLM:
    """Two layers, four heads that share one key-value head, tied embeddings."""
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=vocab,
        hidden_size=hidden,
        intermediate_size=2 * hidden,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=1,
        max_position_embeddings=512,
        tie_word_embeddings=True,
        pad_token_id=None,
        bos_token_id=None,
        eos_token_id=4,
    )
    return LlamaForCausalLM(config)


def save_policy(folder: Path, seed: int = 0) -> Path:
    """Write the policy folder."""
    model(seed).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return folder


def step(
    action: str, observation: str = "see nothing", *, thought: str = "I must", reward: float = 0.0, end: bool = False
) -> Step:
    """One step; the last of an episode where `end`."""
    return Step(thought, action, observation, reward, end, False)


def trajectories(count: int = 8) -> list[Trajectory]:
    """Short episodes of different lengths, all successful."""
    made = []
    for number in range(count):
        turns = [step("go to left" if (number + turn) % 3 else "take key") for turn in range(number % 4)]
        steps = (*turns, step("open door", "done", reward=1.0, end=True))
        made.append(Trajectory(f"corridor/train/{number:05d}", "expert", f"see door {number % 10}", steps, 1.0, True))
    return made
