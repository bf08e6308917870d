"""Train the tokenizer and the base model from scratch on the corpus.

    python -m pretrain.train

Stops at `train.tokens`; a killed run continues from its last checkpoint. The model starts with an induction circuit
(`pretrain/circuit.py`), and batches are small: with large ones and the same tokens copying hardly appears.
"""

from __future__ import annotations

import csv
import json
import logging
import math
import random
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch
import yaml
from tokenizers import Regex, Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pretrain.circuit import install_induction
from qlass.prompts import load_chat_format
from qlass.prompts.chat import ChatFormat
from qlass.records import Message
from qlass.seeds import derive_seed
from qlass.training.attention import choose_attention

logger = logging.getLogger(__name__)

DATA = Path("pretrain/data")
SPECIAL = ["<|pad|>", "<|system|>", "<|user|>", "<|assistant|>", "<|end|>"]
WORDS = """Thought: Action: I need to find a one more. next. found it. take it from saw go to is closed. open it. have
put in on Now clean heat cool hot with at bring use look check is right here. examine around again. first then must"""
"""Plain words of the thoughts in expert data, so that the tokenizer (not the model) knows them."""


def load_corpus(path: Path) -> list[list[Message]]:
    """Read the conversations."""
    with path.open() as lines:
        return [[Message(role, content) for role, content in json.loads(line)] for line in lines]


def train_tokenizer(conversations: list[list[Message]], vocab_size: int) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which a word with its leading space, or a number, is one piece."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [
            pre_tokenizers.Split(Regex(r" ?[A-Za-z]+| ?\d+|\s|[^\sA-Za-z\d]"), "isolated"),
            pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False),
        ]
    )
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [message.content for conversation in conversations for message in conversation]
    tokenizer.train_from_iterator([*texts, *[f"Thought: {WORDS}"] * 200], trainer)
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")


def encode(conversations: list[list[Message]], chat: ChatFormat, max_length: int) -> list[torch.Tensor]:
    """Encode each conversation, cut at `max_length` tokens."""
    rows = []
    for conversation in conversations:
        ids = [token for segment in chat._segments(tuple(conversation)) for token in segment]
        rows.append(torch.tensor(ids[:max_length], dtype=torch.int32))
    return rows


def batches(rows: list[torch.Tensor], size: int, seed: int, start: int) -> Iterator[list[torch.Tensor]]:
    """Yield batches of rows of similar length for ever, in an order that depends on the seed alone."""
    step = 0
    for epoch in range(10**6):
        rng = random.Random(derive_seed(seed, "order", epoch))
        order = list(range(len(rows)))
        rng.shuffle(order)
        chunks = [order[i : i + size * 50] for i in range(0, len(order), size * 50)]
        groups = []
        for chunk in chunks:
            chunk.sort(key=lambda row: len(rows[row]))
            groups += [chunk[i : i + size] for i in range(0, len(chunk), size)]
        rng.shuffle(groups)
        for group in groups:
            if step >= start:
                yield [rows[row] for row in group]
            step += 1


def loss_of(model: LlamaForCausalLM, rows: list[torch.Tensor]) -> torch.Tensor:
    """Return the mean next-token loss over all tokens of a batch."""
    width = max(map(len, rows))
    ids = torch.zeros(len(rows), width, dtype=torch.long)  # (B, T)
    for row, tokens in enumerate(rows):
        ids[row, : len(tokens)] = tokens
    real = torch.arange(1, width) < torch.tensor([len(tokens) for tokens in rows])[:, None]  # (B, T-1)
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(ids).last_hidden_state[:, :-1][real]
        logits = model.lm_head(hidden)
    return torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][real])


def train(
    model: LlamaForCausalLM, rows: list[torch.Tensor], settings: dict[str, Any], seed: int
) -> list[dict[str, Any]]:
    """Run the schedule: linear warm-up, constant, linear decay to zero over the last 30 % of the tokens."""
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["lr"], betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    checkpoint = DATA / "checkpoint.pt"
    step, tokens, curve = 0, 0, []
    if checkpoint.exists():
        state = torch.load(checkpoint, weights_only=True)
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, tokens, curve = state["step"], state["tokens"], state["curve"]
    clock, since, running = time.monotonic(), tokens, 0.0
    for batch in batches(rows, settings["batch_size"], seed, step):
        left = 1 - tokens / settings["tokens"]
        if left <= 0:
            break
        rate = settings["lr"] * min(1.0, (step + 1) / settings["warmup_steps"], left / 0.3)
        for group in optimizer.param_groups:
            group["lr"] = rate
        loss = loss_of(model, batch)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, tokens = step + 1, tokens + sum(map(len, batch))
        running = loss.item() if not running else 0.98 * running + 0.02 * loss.item()
        if not math.isfinite(running):
            raise FloatingPointError(f"loss is {running} at step {step}; lower train.lr in pretrain/params.yaml")
        if step % 50 == 0:
            curve.append({"step": step, "tokens": tokens, "loss": round(running, 4)})
            speed = (tokens - since) / (time.monotonic() - clock)
            logger.info("step=%d tokens=%d loss=%.4f lr=%.1e tokens_per_s=%.0f", step, tokens, running, rate, speed)
        if step % settings["checkpoint_every"] == 0:
            state = {"model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step, "tokens": tokens, "curve": curve}, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    return curve


def main() -> None:
    """Train and write the model in bf16 with its tokenizer and loss curve."""
    params = yaml.safe_load(Path("pretrain/params.yaml").read_text())
    torch.manual_seed(params["seed"])
    conversations = load_corpus(DATA / "corpus.jsonl")
    start = params["train"]["start"]
    if start:  # a tokenizer belongs to its model
        tokenizer = PreTrainedTokenizerFast.from_pretrained(start)
    else:
        tokenizer = train_tokenizer(conversations, params["tokenizer"]["vocab_size"])
    chat = load_chat_format("qlass", tokenizer)
    rows = encode(conversations, chat, params["train"]["max_length"])
    logger.info("conversations=%d tokens=%d longest=%d", len(rows), sum(map(len, rows)), max(map(len, rows)))
    config = LlamaConfig(
        **params["model"],
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        # Slow rotation keeps content comparable over a whole conversation.
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    if start:
        model = LlamaForCausalLM.from_pretrained(start, dtype=torch.float32)
    else:
        model = LlamaForCausalLM(config)
        install_induction(model)
    choose_attention(model, torch.device("cpu"))
    logger.info("parameters=%d", model.num_parameters())
    curve = train(model, rows, params["train"], params["seed"])
    out = Path(params["out"])
    model.to(torch.bfloat16).save_pretrained(out)
    tokenizer.save_pretrained(out)
    with (out / "pretraining_loss.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, ["step", "tokens", "loss"])
        writer.writeheader()
        writer.writerows(curve)


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(message)s")
    main()
