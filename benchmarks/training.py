"""Training per CPU second: rows and batches of `qlass.training` against simpler ways to train the same.

qnet_train_vs_per_step   one row per path of a tree against one row per node; every node's loss once, equal gradients
sft_vs_padded            rows of similar length, logits of supervised tokens alone, bf16 where it pays, against the plain loop:
                         batches of 4 padded to 1,024 tokens, all logits, fp32
batches_vs_packing       tokens of the conversations among all tokens of the batches of a GPU: what packing them without padding could gain
deepspeed_vs_torch       the same SFT steps, optimizer included, on DeepSpeed (ZeRO 1, one process) against plain torch
"""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any, Literal

import torch
from torch import nn
from torch.nn import functional

from benchmarks.rows import Row, cpu_seconds
from qlass.envs import get_definition, make_env
from qlass.envs.core.base import EnvDefinition, TextEnv
from qlass.envs.core.pool import EnvPool
from qlass.labels import label_tree
from qlass.models.folders import load_checked_tokenizer, load_model
from qlass.models.precision import pick_precision
from qlass.models.qnet import QNet
from qlass.policies.base import Propose, Proposed
from qlass.prompts import ChatFormat, history_of, load_chat_format
from qlass.records import ExplorationTree, Node, Proposal, Trajectory
from qlass.search.driver import drive
from qlass.search.explore import ROOT, ExploreSettings, explore
from qlass.training.core.backends import Backend, make_backend
from qlass.training.core.batches import epoch_batches, micro_batches
from qlass.training.core.collate import collate
from qlass.training.core.loop import CPU_LIMITS, CUDA_LIMITS
from qlass.training.core.losses import LanguageLoss, ValueLoss
from qlass.training.core.rows import TrainRow, make_row
from qlass.training.core.settings import TrainSettings
from qlass.training.objectives.sft import sft_rows
from qlass.training.objectives.value import label_values, tree_rows
from tasks.playing.demonstrate import play

MODEL = Path("models/reader-3m")
OPTIONS = {"data": None, "engine": "native", "wording": "move", "admissible": True}
MAX_STEPS = 30
LONGEST = 2560
PADDED = 1024
"""Tokens of every row of the plain loop; the released code pads to 4,096."""
CPU = torch.device("cpu")


class RandomActions:
    """A policy that takes admissible actions at random, so that a tree needs no model."""

    def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
        """Draw one admissible action per seed."""
        answers = []
        for request in requests:
            actions = [random.Random(seed).choice(request.admissible) for seed in request.seeds]
            proposals = tuple(Proposal(action, "I look around.", action, True, 1, 0.0) for action in actions)
            answers.append(Proposed(proposals, 0))
        return answers


class Data:
    """Expert episodes and trees of generated ALFWorld games."""

    def __init__(self, trees: int, trajectories: int) -> None:
        """Play the experts, and grow trees around the first of them."""
        self.definition: EnvDefinition = get_definition("alfworld")
        self.chat: ChatFormat = load_chat_format("qlass", load_checked_tokenizer(MODEL))
        env = make_env(self.definition, OPTIONS, MAX_STEPS)
        specs = list(islice(self.definition.panels(OPTIONS, "train", 0), trajectories))
        self.trajectories: list[Trajectory] = [
            play(env, self.definition, spec, seed=0, thoughts=True) for spec in specs
        ]
        self.trees = [
            self._tree(env, spec, expert) for spec, expert in zip(specs[:trees], self.trajectories, strict=False)
        ]
        env.close()

    def sft_rows(self) -> list[TrainRow]:
        """Return a row per trajectory, as SFT has them."""
        instruction = self.definition.instruction
        return [
            row for one in self.trajectories if one.steps for row in sft_rows(one, instruction, self.chat, LONGEST)
        ]

    def _tree(self, env: TextEnv, spec: Any, expert: Trajectory) -> ExplorationTree:
        budget = ExploreSettings(
            width=2,
            depth=3,
            temperature=1.0,
            rollout_temperature=None,
            expert_branch=True,
            max_invalid=None,
            max_redraws=0,
            max_nodes=120,
            candidates="admissible",
        )
        start = lambda given: explore(given, self.definition, spec, budget, expert, seed=0)  # noqa: E731
        ((_, tree),) = drive([start], EnvPool(lambda: env), RandomActions(), slots=1)
        return tree


def sft_module() -> LanguageLoss:
    """Return the model with the loss of SFT, ready to train."""
    return LanguageLoss(load_model(MODEL).train(), pick_precision("auto", CPU))


def node_rows(
    tree: ExplorationTree, values: dict[tuple[str, int], float], instruction: str, chat: ChatFormat
) -> list[TrainRow]:
    """Return one row per node: the conversation up to its action, its value at the action's end."""
    found = []
    for node in tree.nodes:
        path: list[Node] = [node]
        while path[0].parent_id != ROOT:
            path.insert(0, tree.nodes[path[0].parent_id])
        history = history_of(instruction, tree.observation, [one.step for one in path])
        encoded = chat.row(history[:-1], LONGEST)
        found.append(make_row(encoded.ids, [encoded.action_ends[-1]], [values[tree.task_id, node.node_id]]))
    return found


def one_pass(module: nn.Module, rows: Sequence[TrainRow]) -> None:
    """Go forward and backward over all rows, in micro-batches as training makes them."""
    lengths = {number: len(row.ids) for number, row in enumerate(rows)}
    for chunk in micro_batches(range(len(rows)), lengths, CPU_LIMITS.tokens, CPU_LIMITS.rows, 0, 1):
        module(*collate([rows[number] for number in chunk]).inputs(CPU)).backward()


def gradients(module: nn.Module, rows: Sequence[TrainRow]) -> torch.Tensor:
    """Return the summed gradients of all rows as one vector."""
    module.zero_grad()
    one_pass(module, rows)
    found = torch.cat([value.grad.flatten() for value in module.parameters() if value.grad is not None])
    module.zero_grad()
    return found


def qnet_rows(data: Data, rounds: int) -> Row:
    """Compare path rows with node rows, after a check that both give the same gradients in fp32."""
    values = label_values([label for tree in data.trees for label in label_tree(tree, 0.9)], "q_norm")
    how: dict[str, Any] = {"instruction": data.definition.instruction, "chat": data.chat, "max_prompt": LONGEST}
    paths = [path.row for tree in data.trees for path in tree_rows(tree, values, **how)]
    nodes = [row for tree in data.trees for row in node_rows(tree, values, data.definition.instruction, data.chat)]
    torch.manual_seed(0)
    policy: Any = load_model(MODEL)
    qnet = QNet(policy.model).train()
    exact = ValueLoss(qnet, "fp32")
    one, other = gradients(exact, paths), gradients(exact, nodes)
    distance = float((one - other).norm() / other.norm())
    if distance > 1e-4:
        raise SystemExit(f"qnet_train_vs_per_step: gradients differ by {distance:.1e} of their length")
    module = ValueLoss(qnet, pick_precision("auto", CPU))
    mine, theirs = [], []
    for _ in range(rounds):
        mine.append(cpu_seconds(lambda: one_pass(module, paths)))
        theirs.append(cpu_seconds(lambda: one_pass(module, nodes)))
        module.zero_grad()
    tokens = [sum(len(row.ids) for row in rows) for rows in (paths, nodes)]
    return Row.of(
        "qnet_train_vs_per_step",
        len(nodes) / min(mine),
        len(nodes) / min(theirs),
        "labelled nodes per CPU second",
        f"{len(data.trees)} trees, {len(nodes)} nodes, {tokens[0]:,} instead of {tokens[1]:,} tokens; gradients differ by {distance:.0e}",
    )


def sft_passes(data: Data, rounds: int) -> Row:
    """Compare our SFT pass with the plain padded loop."""
    rows = [row for row in data.sft_rows() if len(row.ids) <= PADDED]
    tokens = sum(len(row.ids) for row in rows)
    module = sft_module()
    plain: Any = load_model(MODEL).train()
    plain.set_attn_implementation("eager")

    def padded() -> None:
        for first in range(0, len(rows), 4):
            batch = rows[first : first + 4]
            ids = torch.zeros(len(batch), PADDED, dtype=torch.long)
            wanted = torch.full_like(ids, -100)
            mask = torch.zeros_like(ids)
            for number, row in enumerate(batch):
                ids[number, : len(row.ids)] = torch.from_numpy(row.ids)
                mask[number, : len(row.ids)] = 1
                wanted[number, torch.from_numpy(row.positions)] = torch.from_numpy(row.targets).long()
            logits = plain(input_ids=ids, attention_mask=mask, use_cache=False).logits
            functional.cross_entropy(logits.flatten(0, 1), wanted.flatten(), ignore_index=-100).backward()

    mine, theirs = [], []
    for _ in range(rounds):
        mine.append(cpu_seconds(lambda: one_pass(module, rows)))
        theirs.append(cpu_seconds(padded))
        module.zero_grad()
        plain.zero_grad()
    return Row.of(
        "sft_vs_padded",
        tokens / min(mine),
        tokens / min(theirs),
        "real tokens per CPU second",
        f"{len(rows)} trajectories, {tokens:,} tokens; plain: batches of 4 padded to {PADDED:,}, eager attention, all logits, fp32",
    )


def packing(data: Data, batch_size: int = 64) -> Row:
    """Count the padding in one epoch of SFT in the paper's batch size, with the micro-batches of a GPU."""
    lengths = [len(row.ids) for row in data.sft_rows()]
    chunks = [
        chunk
        for batch in epoch_batches(lengths, batch_size, 0, 0)
        for chunk in micro_batches(batch, lengths, CUDA_LIMITS.tokens, CUDA_LIMITS.rows, 0, 1)
    ]
    padded = sum(len(chunk) * max(lengths[number] for number in chunk) for chunk in chunks)
    return Row.of(
        "batches_vs_packing",
        sum(lengths) / len(chunks),
        padded / len(chunks),
        "tokens per forward pass",
        f"{len(lengths)} trajectories in batches of {batch_size}, {CUDA_LIMITS.tokens:,} tokens at most in one pass; ours: real tokens, other: with padding",
    )


def step_settings(backend: Literal["deepspeed", "torch"]) -> TrainSettings:
    """Return how optimizer steps are taken on a backend; what concerns whole runs does not matter here."""
    return TrainSettings(
        epochs=1,
        batch_size=1,
        lr=1e-4,
        warmup_ratio=0.0,
        weight_decay=0.0,
        adam_beta2=0.999,
        max_grad_norm=1.0,
        precision="auto",
        backend=backend,
        zero_stage=1,
        ranks=1,
        log_every=5,
        checkpoint_every=50,
    )


def deepspeed_steps(data: Data, rounds: int) -> Row:
    """Compare whole optimizer steps on the two backends."""
    both = step_settings("deepspeed"), step_settings("torch")
    rows = data.sft_rows()
    tokens = sum(len(row.ids) for row in rows)
    backends = [
        make_backend(LanguageLoss(load_model(MODEL), pick_precision("auto", CPU)), settings, CPU) for settings in both
    ]

    def steps(backend: Backend) -> None:
        for row in rows:
            backend.accumulate(collate([row]), float(row.weights.sum()))
            backend.step(1e-4)

    times = [[cpu_seconds(lambda: steps(backend)) for backend in backends] for _ in range(rounds)]  # noqa: B023  (called at once)
    deepspeed, plain = (min(column) for column in zip(*times, strict=True))
    return Row.of(
        "deepspeed_vs_torch",
        tokens / deepspeed,
        tokens / plain,
        "tokens per CPU second",
        f"{len(rows)} optimizer steps of one trajectory, ZeRO {both[0].zero_stage}, one process",
    )


def rows(trees: int = 2, trajectories: int = 24, rounds: int = 3) -> list[Row]:
    """Measure all comparisons."""
    data = Data(trees, trajectories)
    return [
        qnet_rows(data, rounds),
        sft_passes(data, rounds),
        packing(Data(0, 8 * trajectories)),
        deepspeed_steps(data, rounds),
    ]
