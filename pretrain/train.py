"""Train the tokenizer and the base model of a recipe from scratch on its corpus.

    python -m pretrain.train          # models/reader-3m
    python -m pretrain.train shop     # models/reader-shop-5m
    python -m pretrain.train sciworld

Stops at `train.tokens`; a killed run with unchanged settings continues from its last checkpoint. The model starts with
an induction circuit (`pretrain/circuit.py`), and batches are small: with large ones and the same tokens copying hardly appears.
"""

from __future__ import annotations

import argparse
import copy
import csv
import itertools
import json
import logging
import math
import os
import re
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import torch
import yaml
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from torch import distributed
from torch.multiprocessing import spawn
from torch.nn.utils.rnn import pad_sequence
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

from pretrain.alphabet import BLANK, SPECIAL, split_on
from pretrain.circuit import Codes, install_induction
from pretrain.sciworld import tokens as sci_tokens
from pretrain.shop import tokens as shop_tokens
from qlass import processes
from qlass.envs.alfworld.engine import NOTHING_HAPPENS
from qlass.prompts import load_chat_format
from qlass.prompts.chat import ChatFormat
from qlass.records import Message
from qlass.training.core.attention import choose_attention
from qlass.training.core.batches import epoch_batches

logger = logging.getLogger(__name__)

NUMBERS = " ".join(map(str, range(100)))
WORDS = """Thought: Action: I need to find a one more. next. found it. take it from saw go to is closed. open it. have
put in on Now clean heat cool hot with at bring use look check is right here. examine around again. first then must"""
"""Plain words of the thoughts in expert data, so that the tokenizer (not the model) knows them."""


def load_corpus(path: Path) -> list[list[Message]]:
    """Read the conversations."""
    with path.open() as lines:
        return [[Message(role, content) for role, content in json.loads(line)] for line in lines]


def train_tokenizer(conversations: list[list[Message]], settings: dict[str, int]) -> PreTrainedTokenizerFast:
    """Train a byte-level BPE in which a word with its leading space, a number, or the name of a thing is one piece.

    The engine names things by kind and number, "shelf 3". As one piece, two mentions of a thing are equal tokens, which
    attention compares in one step; as two, it must first join them.
    """
    tokenizer = Tokenizer(models.BPE())
    words = r" ?[A-Za-z]+| ?\d+|\s|[^\sA-Za-z\d]"
    tokenizer.pre_tokenizer = split_on(words)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=settings["vocab_size"],
        special_tokens=SPECIAL,
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    texts = [message.content for conversation in conversations for message in conversation]
    tokenizer.train_from_iterator([*texts, *[f"Thought: {WORDS} {NUMBERS}"] * 200], trainer)
    # The merges of names come last: a rare name stays a word and a number.
    described = json.loads(tokenizer.to_str())
    vocabulary, merges = described["model"]["vocab"], described["model"]["merges"]
    counts = Counter(name for text in texts for name in re.findall(r"(?<= )[a-z]+ \d+", text))
    for name in sorted(name for name, count in counts.items() if count >= settings["name_count"]):
        kind, number = (f"{BLANK}{part}" for part in name.split())
        if kind in vocabulary and number in vocabulary:
            merges.append([kind, number])
            vocabulary[kind + number] = len(vocabulary)
    tokenizer = Tokenizer.from_str(json.dumps(described))
    tokenizer.pre_tokenizer = split_on(rf" [a-z]+ \d{{1,2}}(?!\d)|{words}")
    return PreTrainedTokenizerFast(tokenizer_object=tokenizer, pad_token="<|pad|>", eos_token="<|end|>")


class Row(NamedTuple):
    """A conversation.

    Attributes:
        ids: (T,) token ids.
        weights: (T,) of each token's loss; 0 for the tokens of a reply that the engine refused.
    """

    ids: torch.Tensor
    weights: torch.Tensor


def encode(
    conversations: list[list[Message]],
    chat: ChatFormat,
    max_length: int,
    user_weight: float,
    refusals: tuple[str, ...] = (NOTHING_HAPPENS,),
) -> list[Row]:
    """Encode each conversation, cut at `max_length` tokens.

    The player's slips are there to be foreseen, not to be imitated: a refused reply is read, and what follows it is
    learned, but not the reply.

    Args:
        conversations: of the corpus.
        chat: how messages become tokens.
        max_length: of a row, in tokens.
        user_weight: of the tokens of observations and questions; those of replies and answers have 1.
        refusals: how the answer to a refused reply begins.
    """
    rows = []
    for conversation in conversations:
        ids: list[int] = []
        weights: list[float] = []
        answers = [message.content for message in conversation[1:]] + [""]
        for message, answer, segment in zip(conversation, answers, chat.segments(tuple(conversation)), strict=True):
            ids += segment
            refused = message.role == "assistant" and answer.startswith(refusals)
            weights += [0.0 if refused else 1.0 if message.role == "assistant" else user_weight] * len(segment)
        rows.append(Row(torch.tensor(ids[:max_length], dtype=torch.int32), torch.tensor(weights[:max_length])))
    return rows


def batches(rows: list[Row], size: int, seed: int, start: int) -> Iterator[list[Row]]:
    """Yield batches of rows of similar length for ever, in an order that depends on the seed alone."""
    lengths = [len(row.ids) for row in rows]
    every = (epoch_batches(lengths, size, seed, epoch) for epoch in itertools.count())
    for batch in itertools.islice(itertools.chain.from_iterable(every), start, None):
        yield [rows[row] for row in batch]


def loss_of(model: LlamaForCausalLM, rows: list[Row]) -> torch.Tensor:
    """Return the weighted sum of the next-token losses of a batch."""
    ids = pad_sequence([row.ids for row in rows], batch_first=True).long()  # (B, T)
    weights = pad_sequence([row.weights for row in rows], batch_first=True)[:, 1:]  # (B, T-1); 0 for padding
    learned = weights > 0
    with torch.autocast("cpu", torch.bfloat16):
        hidden = model.model(ids).last_hidden_state[:, :-1][learned]
        logits = model.lm_head(hidden)
    losses = torch.nn.functional.cross_entropy(logits.float(), ids[:, 1:][learned], reduction="none")
    return (losses * weights[learned]).sum()


def add_up(model: LlamaForCausalLM, loss: torch.Tensor) -> float:
    """Sum gradients and loss over the processes; return the loss."""
    grads = [parameter.grad for parameter in model.parameters() if parameter.grad is not None]
    flat = torch.cat([*map(torch.flatten, grads), loss.detach().reshape(1)])
    distributed.all_reduce(flat)
    for grad, part in zip(grads, flat.split([grad.numel() for grad in grads] + [1])[:-1], strict=True):
        grad.copy_(part.view_as(grad))
    return float(flat[-1])


def train(
    model: LlamaForCausalLM, rows: list[Row], settings: dict[str, Any], seed: int, checkpoint: Path
) -> list[dict[str, Any]]:
    """Run the schedule: linear warm-up, constant, linear decay to zero over the last 30 % of the tokens."""
    rank, ranks = distributed.get_rank(), distributed.get_world_size()
    optimizer = torch.optim.AdamW(
        model.parameters(), lr=settings["lr"], betas=(0.9, 0.98), weight_decay=0.05, fused=True
    )
    step, tokens, curve = 0, 0, []
    # `tokens` may change, to make a run shorter or longer while it is stopped.
    run = {"seed": seed, **{key: value for key, value in settings.items() if key != "tokens"}}
    state = torch.load(checkpoint, weights_only=True) if checkpoint.exists() else {}
    if state.get("run") == run:
        model.load_state_dict(state["model"])
        optimizer.load_state_dict(state["optimizer"])
        step, tokens, curve = state["step"], state["tokens"], state["curve"]
    distributed.barrier()
    clock, since, running = time.monotonic(), tokens, 0.0
    for batch in batches(rows, settings["batch_size"], seed, step):
        left = 1 - tokens / settings["tokens"]
        if left <= 0:
            break
        rate = settings["lr"] * min(1.0, (step + 1) / settings["warmup_steps"], left / 0.3)
        for group in optimizer.param_groups:
            group["lr"] = rate
        count = sum(len(row.ids) for row in batch)
        loss = loss_of(model, batch[rank::ranks]) / sum(float(row.weights[1:].sum()) for row in batch)
        loss.backward()
        mean = add_up(model, loss)
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()
        step, tokens = step + 1, tokens + count
        running = mean if not running else 0.98 * running + 0.02 * mean
        if not math.isfinite(running):
            raise FloatingPointError(f"loss is {running} at step {step}; lower train.lr in pretrain/params.yaml")
        if step % 50 == 0:
            curve.append({"step": step, "tokens": tokens, "loss": round(running, 4)})
            speed = (tokens - since) / (time.monotonic() - clock)
            logger.info("step=%d tokens=%d loss=%.4f lr=%.1e tokens_per_s=%.0f", step, tokens, running, rate, speed)
        if step % settings["checkpoint_every"] == 0 and rank == 0:
            state = {"run": run, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
            torch.save({**state, "step": step, "tokens": tokens, "curve": curve}, checkpoint.with_suffix(".tmp"))
            checkpoint.with_suffix(".tmp").replace(checkpoint)
    return curve


class Recipe(NamedTuple):
    """What differs between the base models.

    Attributes:
        key: of pretrain/params.yaml where its settings stand; empty for the top.
        train_tokenizer: from a corpus and the settings `tokenizer`.
        codes: tokens that start alike.
        refusals: how the answer to a refused reply begins.
    """

    key: str
    train_tokenizer: Callable[[list[list[Message]], dict[str, int]], PreTrainedTokenizerFast]
    codes: Callable[[PreTrainedTokenizerFast], Codes]
    refusals: tuple[str, ...] = (NOTHING_HAPPENS,)

    def params(self) -> dict[str, Any]:
        """Read the settings."""
        params = yaml.safe_load(Path("pretrain/params.yaml").read_text())
        return params[self.key] if self.key else params


def work(rank: int, name: str, params: dict[str, Any], meeting: str) -> None:
    """Train as one of `train.ranks` processes; the first writes the model in bf16 with its tokenizer and loss curve."""
    out = Path(params["out"])
    checkpoint = out.with_name("checkpoint.pt")
    logging.basicConfig(level=logging.INFO if rank == 0 else logging.WARNING, format="%(asctime)s %(message)s")
    processes.die_with_parent(os.getppid())
    torch.set_num_threads(1)
    distributed.init_process_group("gloo", meeting, rank=rank, world_size=params["train"]["ranks"])
    torch.manual_seed(params["seed"])
    conversations = load_corpus(out.with_name("corpus.jsonl"))
    tokenizer = PreTrainedTokenizerFast.from_pretrained(out.with_name("tokenizer"))
    chat = load_chat_format("qlass", tokenizer)
    settings = params["train"]
    rows = encode(conversations, chat, settings["max_length"], settings["user_weight"], RECIPES[name].refusals)
    lengths = [len(row.ids) for row in rows]
    logger.info("conversations=%d tokens=%d longest=%d", len(rows), sum(lengths), max(lengths))
    if start := params["train"]["start"]:
        model = with_key_value_heads(
            LlamaForCausalLM.from_pretrained(start, dtype=torch.float32), params["model"]["num_key_value_heads"]
        )
        carry_over(model, PreTrainedTokenizerFast.from_pretrained(start), tokenizer)
    else:
        model = new_model(params["model"], tokenizer, RECIPES[name].codes(tokenizer))
    choose_attention(model, torch.device("cpu"))
    logger.info("parameters=%d", model.num_parameters())
    curve = train(model, rows, params["train"], params["seed"], checkpoint)
    if rank == 0:
        model.to(torch.bfloat16).save_pretrained(out)
        tokenizer.save_pretrained(out)
        with (out / "pretraining_loss.csv").open("w", newline="") as file:
            writer = csv.DictWriter(file, ["step", "tokens", "loss"])
            writer.writeheader()
            writer.writerows(curve)
        checkpoint.unlink(missing_ok=True)  # or the next run would go on from this one's end
    distributed.destroy_process_group()


def new_model(shape: dict[str, int], tokenizer: PreTrainedTokenizerFast, codes: Codes) -> LlamaForCausalLM:
    """Build an untrained model that starts with the induction circuit."""
    config = LlamaConfig(
        **shape,
        vocab_size=len(tokenizer),
        max_position_embeddings=4096,
        tie_word_embeddings=False,
        # Slow rotation keeps content comparable over a whole conversation.
        rope_parameters={"rope_type": "default", "rope_theta": 1e6},
        pad_token_id=tokenizer.pad_token_id,
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
    )
    model = LlamaForCausalLM(config)
    install_induction(model, codes)
    return model


@torch.no_grad()
def with_key_value_heads(model: LlamaForCausalLM, heads: int) -> LlamaForCausalLM:
    """Give a model more heads of keys and values, each a copy of the one in its place: it computes the same.

    Args:
        model: with as many heads or fewer.
        heads: of keys and values, a multiple of the model's.
    """
    config, before = copy.deepcopy(model.config), model.config.num_key_value_heads
    config.num_key_value_heads = heads
    wider, weights = LlamaForCausalLM(config), model.state_dict()
    for name, weight in weights.items():
        if re.search(r"\.[kv]_proj\.weight$", name):
            each = weight.unflatten(0, (before, -1))  # (heads, head_dim, hidden)
            weights[name] = each.repeat_interleave(heads // before, 0).flatten(0, 1)
    wider.load_state_dict(weights)
    return wider


@torch.no_grad()
def carry_over(model: LlamaForCausalLM, old: PreTrainedTokenizerFast, new: PreTrainedTokenizerFast) -> None:
    """Give a model another tokenizer: pieces that both have keep their embeddings (all of them, for equal tokenizers).

    A new piece that the old one has in other capitals starts as that. A name that was two pieces starts as their sum,
    scaled to the size of one; any other new piece as the mean piece.
    """
    known, pieces, names = old.get_vocab(), new.get_vocab(), names_of(new)
    alike = {piece.lower(): number for piece, number in sorted(known.items())}
    model.config.vocab_size = len(new)
    for module in (model.model.embed_tokens, model.lm_head):
        before = module.weight.data
        mean = before.mean(0)
        after = mean.repeat(len(new), 1)
        for piece, number in pieces.items():
            if (source := known.get(piece, alike.get(piece.lower()))) is not None:
                after[number] = before[source]
        for name, kind, number in names:
            if new.convert_ids_to_tokens(name) not in known:
                after[name] = mean + (after[kind] + after[number] - 2 * mean) / math.sqrt(2)
        module.weight = torch.nn.Parameter(after)
    model.model.embed_tokens.num_embeddings = model.lm_head.out_features = len(new)


def names_of(tokenizer: PreTrainedTokenizerFast) -> list[tuple[int, int, int]]:
    """Return (name, kind, number) for each piece that is a whole name, as token ids."""
    pieces = tokenizer.get_vocab()
    parts = {piece: re.fullmatch(rf"({BLANK}[a-z]+)({BLANK}\d+)", piece) for piece in pieces}
    return sorted((pieces[piece], pieces[found[1]], pieces[found[2]]) for piece, found in parts.items() if found)


RECIPES = {
    "household": Recipe("", train_tokenizer, lambda tokenizer: Codes(names_of(tokenizer))),
    "shop": Recipe("shop", shop_tokens.train_tokenizer, shop_tokens.codes_of),
    "sciworld": Recipe("sciworld", sci_tokens.train_tokenizer, sci_tokens.codes_of, sci_tokens.REFUSALS),
}


def main() -> None:
    """Make the tokenizer, then train."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipe", nargs="?", choices=list(RECIPES), default="household")
    name = parser.parse_args().recipe
    params = RECIPES[name].params()
    out = Path(params["out"])
    if params["train"]["keep_tokenizer"]:
        tokenizer = PreTrainedTokenizerFast.from_pretrained(params["train"]["start"])
    else:
        corpus = load_corpus(out.with_name("corpus.jsonl"))
        tokenizer = RECIPES[name].train_tokenizer(corpus, params["tokenizer"])
    tokenizer.save_pretrained(out.with_name("tokenizer"))
    with tempfile.TemporaryDirectory() as folder:
        spawn(work, (name, params, f"file://{folder}/meeting"), nprocs=params["train"]["ranks"])


if __name__ == "__main__":
    main()
