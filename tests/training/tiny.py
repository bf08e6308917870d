"""A tiny random Llama policy with its tokenizer, built in memory: no download, saved in a moment; and settings to train it."""

from pathlib import Path
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from qlass.recipes import sft
from qlass.recipes.recipe import Ingredients, PolicyResult
from qlass.records import Step, Trajectory
from qlass.settings import Section
from qlass.training.core.settings import TrainSettings
from qlass.training.objectives.sft import SftSettings
from qlass.training.objectives.value import QNetSettings
from qlass.validation import problems

SPECIAL = ["<unk>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = "you are in a room go to left right take key open door done see nothing Thought : Action I must . , 0 1 2 3 4 5 6 7 8 9"
INSTRUCTION = "you are in a room . go to door"

TRAIN: dict[str, Any] = {
    "epochs": 2, "batch_size": 4, "lr": 1e-2, "warmup_ratio": 0.1, "weight_decay": 0.0, "adam_beta2": 0.999, "max_grad_norm": 1.0,
    "precision": "fp32", "backend": "torch", "zero_stage": 1, "ranks": 1, "log_every": 2, "checkpoint_every": 100,
}  # fmt: skip
"""What every training run is told: some steps in this process."""

LORA: dict[str, Any] = {"r": 4, "alpha": 8.0, "dropout": 0.0}

QNET: dict[str, Any] = {
    **TRAIN, "epochs": 6, "batch_size": 8, "lr": 3e-3, "warmup_ratio": 0.05, "log_every": 5, "checkpoint_every": 7,
    "head_width": 32, "trunk": "own", "target": "q_norm", "supervise": "action_end", "tail": None, "observation_loss": 0.0,
    "tasks": None, "validation_fraction": 0.2,
}  # fmt: skip


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


def train_settings(**changes: Any) -> TrainSettings:
    """What every objective has, with some values changed."""
    return TrainSettings(**TRAIN | changes)


def sft_settings(**changes: Any) -> SftSettings:
    """Behaviour cloning, full fine-tuning, with some values changed."""
    return SftSettings(**TRAIN | {"lora": None} | changes)


def sft_recipe(**changes: Any) -> sft.SftRecipe:
    """The same as the section of the policy `sft`, all trajectories."""
    return sft.SftRecipe(**TRAIN | {"lora": None, "share": 1.0, "trajectories": None} | changes)


def qnet_settings(**changes: Any) -> QNetSettings:
    """A QNet that learns in a moment, with some values changed."""
    return QNetSettings(**QNET | changes)


def fault(section: type[Section], values: dict[str, Any]) -> str:
    """Return, in words, what is wrong with the values of a section; that nothing is wrong fails the test."""
    with pytest.raises(ValidationError) as caught:
        section.model_validate(values)
    return "; ".join(map(str, problems(caught.value, TypeAdapter(section))))


def ingredients(policy: Path, folder: Path, place: str = "sft", **changes: Any) -> Ingredients:
    """What a recipe is given: the trajectories above; the new policy goes to `folder / place`."""
    given: dict[str, Any] = {
        "name": "sft", "base": policy, "expert": trajectories, "instruction": INSTRUCTION, "chat_format": "qlass",
        "max_length": 200, "max_new_tokens": 16, "seed": 0, "device": "auto", "out_dir": folder / place, "work_dir": folder / f"work-{place}",
    }  # fmt: skip
    return Ingredients(**given | changes)


def make_sft(policy: Path, folder: Path, place: str = "sft", **settings: Any) -> PolicyResult:
    """Make the policy `sft` in `folder / place`, with some settings changed."""
    return sft.make(ingredients(policy, folder, place), sft_recipe(**settings))
