"""Behaviour cloning: each token of an assistant's reply, and the end of its turn, is predicted (paper section 3.1)."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qlass.errors import DataError
from qlass.prompts import ChatFormat, history_of
from qlass.records import Trajectory
from qlass.training.core.rows import TrainRow, make_row
from qlass.training.core.settings import LoraSettings, TrainSettings
from qlass.training.objectives.base import Objective

if TYPE_CHECKING:
    from torch import nn

    from qlass.training.core.jobs import TrainJob
    from qlass.training.core.losses import LanguageLoss


class SftSettings(TrainSettings):
    """Settings of one behaviour-cloning run."""

    lora: LoraSettings | None
    """Low-rank adapters, which are trained instead of the whole model; null: full fine-tuning."""


def sft_rows(trajectory: Trajectory, instruction: str, chat: ChatFormat, max_prompt: int) -> list[TrainRow]:
    """Turn a trajectory into rows: each token of a reply, and the end of its turn, is predicted; nothing else.

    Each reply is read after exactly the history that the policy sees when it acts. The replies whose histories are
    whole share the first row, which is the only one unless the episode is very long; each later reply has its own.

    Args:
        trajectory: at least one step.
        instruction: the environment's instruction text.
        chat: chat format of the policy.
        max_prompt: tokens that a history may have; see `qlass.prompts.prompt_limit`.

    Raises:
        DataError: nothing is supervised; names the task.
    """
    steps = trajectory.steps
    if not steps:
        raise DataError(f"{trajectory.task_id}: no token is supervised; a trajectory needs at least one reply")
    rows: list[TrainRow] = []
    for number in range(len(steps), 0, -1):
        history = history_of(instruction, trajectory.observation, steps[:number])[:-1]
        encoded = chat.row(history, max_prompt)
        cut = -1 in encoded.action_ends
        first = len(chat.prompt(history[:-1], max_prompt).ids) if cut else 0
        replied = [index for index, mask in enumerate(encoded.assistant_mask) if mask and index >= first]
        # The hidden state before a token predicts it.
        rows.append(make_row(encoded.ids, [index - 1 for index in replied], [encoded.ids[index] for index in replied]))
        if not cut:
            break
    return rows[::-1]


def build_module(job: TrainJob[SftSettings]) -> LanguageLoss:
    """Build the policy with its loss, ready to train."""
    from qlass.models.folders import load_model
    from qlass.models.precision import pick_device
    from qlass.training.core.attention import choose_attention
    from qlass.training.core.losses import LanguageLoss

    model: nn.Module = load_model(Path(job.policy_dir))
    choose_attention(cast("Any", model), pick_device(job.device))
    if job.settings.lora is not None:
        model = _with_adapters(model, job.settings.lora)
    return LanguageLoss(model.train(), job.precision)


def _with_adapters(model: nn.Module, lora: LoraSettings) -> nn.Module:
    """Freeze a model and put trainable low-rank adapters on all its linear layers."""
    from peft import LoraConfig, get_peft_model

    from qlass.models.folders import quiet_peft

    config = LoraConfig(
        r=lora.r,
        lora_alpha=cast("int", lora.alpha),
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with quiet_peft():
        return cast("nn.Module", get_peft_model(cast("Any", model), config))


OBJECTIVE = Objective(settings=SftSettings, build_module=build_module)
