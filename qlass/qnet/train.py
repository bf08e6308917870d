"""Train the QNet on labelled trees and measure it on tasks kept aside (paper section 3.3)."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch

from qlass.errors import DataError, SettingsError
from qlass.models.folders import load_checked_tokenizer, replace_folder
from qlass.models.precision import autocast, pick_device, pick_precision
from qlass.models.qnet import QNet, save_qnet
from qlass.prompts import load_chat_format, prompt_limit
from qlass.qnet.metrics import Row, ScoredNode, calibration_table, qnet_metrics, siblings_table
from qlass.records import ExplorationTree, QLabel
from qlass.seeds import derive_seed
from qlass.training.core.batches import micro_batches
from qlass.training.core.checkpoint import LossRow
from qlass.training.core.collate import collate
from qlass.training.core.jobs import TrainJob, run_job
from qlass.training.core.loop import CPU_LIMITS, CUDA_LIMITS
from qlass.training.core.losses import ValueLoss
from qlass.training.objectives.value import (
    Column,
    Labels,
    PathRow,
    QNetSettings,
    label_values,
    tree_rows,
    validation_tasks,
)


@dataclass(frozen=True, slots=True)
class QNetResult:
    """What `train_qnet` reports.

    Attributes:
        metrics: numbers for metrics.json.
        curve: rows of loss.csv.
        calibration: rows of calibration.csv.
        siblings: rows of siblings.csv.
    """

    metrics: dict[str, float | int | str | None]
    curve: list[LossRow]
    calibration: list[Row]
    siblings: list[Row]


def train_qnet(  # noqa: PLR0913  (named one by one, as the stage has them)
    policy_dir: Path,
    trees: Sequence[ExplorationTree],
    labels: Iterable[QLabel],
    *,
    column: Column,
    instruction: str,
    settings: QNetSettings,
    out_dir: Path,
    work_dir: Path,
    seed: int,
    max_length: int,
    max_new_tokens: int,
    chat_format: str,
    device: str = "auto",
    resamples: int = 2000,
    confidence: float = 0.95,
) -> QNetResult:
    """Train a QNet whose backbone starts as the policy, and write its folder.

    Args:
        policy_dir: SFT policy folder.
        trees: exploration trees, at least two that have nodes.
        labels: of every node of the trees.
        column: the field of QLabel to learn; see `label_column`.
        instruction: the environment's instruction text.
        settings: the `qnet` section.
        out_dir: replaced by the QNet folder; see `save_qnet`.
        work_dir: resume folder of this very run; the caller removes it afterwards.
        seed: of the stage.
        max_length: tokens of history and reply together.
        max_new_tokens: tokens of a reply, as in the search that the QNet guides: both cut long histories alike.
        chat_format: name of the chat format.
        device: auto, cpu or cuda.
        resamples: bootstrap resamples of the sibling accuracy's interval.
        confidence: of that interval.

    Raises:
        DataError: too few trees, or a node without a label.
        SettingsError: more tasks are asked for than there are.
        ModelMismatch: the tokenizer does not fit the model or the chat format.
    """
    work_dir.mkdir(parents=True, exist_ok=True)
    chat = load_chat_format(chat_format, load_checked_tokenizer(policy_dir))
    max_prompt = prompt_limit(max_length, max_new_tokens)
    values = label_values(labels, column)
    grown = [tree for tree in trees if tree.nodes]
    kept = validation_tasks((tree.task_id for tree in grown), settings.validation_fraction)

    def rows_of(chosen: Iterable[ExplorationTree], **how: Any) -> list[PathRow]:
        options: dict[str, Any] = {"instruction": instruction, "chat": chat, "max_prompt": max_prompt}
        return [row for tree in chosen for row in tree_rows(tree, values, **options, **how)]

    training = [tree for tree in grown if tree.task_id not in kept]
    if settings.tasks is not None and settings.tasks > len(training):
        raise SettingsError(
            f"qnet.tasks: found {settings.tasks}; allowed: 1 to {len(training)} (the explored tasks that are not kept for "
            "validation), or null; or explore more (explore.tasks)"
        )
    training = training[: settings.tasks]
    validation = [tree for tree in grown if tree.task_id in kept]
    observations = settings.observation_loss > 0
    rows = rows_of(training, supervise=settings.supervise, tail=settings.tail, observations=observations)
    precision = pick_precision(settings.precision, pick_device(device))
    job = TrainJob("qnet", "value", str(policy_dir), settings, seed, device, precision)
    trained = run_job(job, [path.row for path in rows], work_dir)
    qnet = cast("ValueLoss", trained.module).qnet
    save_qnet(qnet, work_dir / "model", policy_dir, policy_trunk=settings.trunk == "policy")
    nodes = score_nodes(qnet, validation, rows_of(validation), values, pick_device(device), precision)
    replace_folder(work_dir / "model", out_dir)
    measured = qnet_metrics(
        nodes,
        _mean_target(training, values),
        resamples=resamples,
        confidence=confidence,
        seed=derive_seed(seed, "bootstrap"),
    )
    counts = {
        "trees": len(grown),
        "train_tasks": len(training),
        "empty_trees": len(trees) - len(grown),
        "rows": len(rows),
        "train_nodes": sum(len(tree.nodes) for tree in training),
        "steps": trained.curve[-1].step,
        "tokens": trained.curve[-1].tokens,
        "loss_first": trained.curve[0].loss,
        "loss_last": trained.curve[-1].loss,
        "precision": precision,
        "target": column,
    }
    return QNetResult({**measured, **counts}, trained.curve, calibration_table(nodes), siblings_table(nodes))


@torch.no_grad()
def score_nodes(
    qnet: QNet,
    trees: Sequence[ExplorationTree],
    rows: Sequence[PathRow],
    values: Labels,
    device: torch.device,
    precision: Any,
) -> list[ScoredNode]:
    """Return the QNet's value of every node of some trees, in the order of the trees.

    Args:
        qnet: put into evaluation mode and moved to `device`.
        trees: whose nodes are scored.
        rows: of those trees, made with `supervise="action_end"`.
        values: the labels.
        device: where to compute.
        precision: fp32 or bf16.
    """
    qnet.to(device).eval()
    limits = CPU_LIMITS if device.type == "cpu" else CUDA_LIMITS
    lengths = {number: len(path.row.ids) for number, path in enumerate(rows)}
    predicted: dict[tuple[str, int], float] = {}
    for chunk in micro_batches(range(len(rows)), lengths, limits.tokens, limits.rows, 0, 1):
        ids, at_rows, at_positions, *_ = collate([rows[number].row for number in chunk]).inputs(device)
        with autocast(device, precision):
            found = qnet(ids, at_rows, at_positions)
        nodes = [(rows[number].task_id, node_id) for number in chunk for node_id in rows[number].node_ids]
        predicted.update(zip(nodes, found.tolist(), strict=True))
    qnet.to("cpu")
    return [
        ScoredNode(
            tree.task_id,
            node.parent_id,
            node.depth,
            values[tree.task_id, node.node_id],
            predicted[tree.task_id, node.node_id],
            node.step.valid,
        )
        for tree in trees
        for node in tree.nodes
    ]


def _mean_target(trees: Sequence[ExplorationTree], values: Labels) -> float:
    """Return the mean label over the nodes of some trees."""
    targets = [values[tree.task_id, node.node_id] for tree in trees for node in tree.nodes]
    if not targets:
        raise DataError("qnet: no labelled node to train on; run the stages `explore` and `label`")
    return sum(targets) / len(targets)
