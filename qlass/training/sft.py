"""Behaviour cloning: supervised fine-tuning on expert trajectories (paper section 3.1, Table 5)."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

from torch import nn

from qlass.errors import DataError
from qlass.models.folders import (
    check_saved,
    copy_tokenizer,
    load_checked_tokenizer,
    load_model,
    quiet_peft,
    write_pointer,
)
from qlass.models.precision import pick_device
from qlass.prompts import ChatFormat, history_of, load_chat_format
from qlass.records import Trajectory
from qlass.training.attention import choose_attention
from qlass.training.checkpoint import LossRow
from qlass.training.jobs import Trained, TrainJob, resolve_precision, run_job
from qlass.training.losses import LanguageLoss
from qlass.training.rows import TrainRow, make_row
from qlass.training.settings import LoraSettings, TrainSettings


@dataclass(frozen=True, slots=True)
class SftResult:
    """What `train_sft` reports.

    Attributes:
        metrics: numbers for metrics.json.
        curve: rows of loss.csv.
    """

    metrics: dict[str, float | int | str]
    curve: list[LossRow]


def sft_row(trajectory: Trajectory, instruction: str, chat: ChatFormat, max_length: int) -> TrainRow:
    """Turn a trajectory into a row: each token of a reply, and the end of its turn, is predicted; nothing else.

    Raises:
        DataError: nothing is supervised; names the task.
    """
    encoded = chat.row(history_of(instruction, trajectory.observation, trajectory.steps), max_length)
    # The hidden state before a token predicts it.
    positions = [index - 1 for index, mask in enumerate(encoded.assistant_mask) if mask and index > 0]
    if not positions:
        raise DataError(
            f"{trajectory.task_id}: no token is supervised ({len(trajectory.steps)} steps, {len(encoded.ids)} tokens); "
            "a trajectory needs at least one reply"
        )
    return make_row(encoded.ids, positions, [encoded.ids[position + 1] for position in positions])


def train_sft(  # noqa: PLR0913  (named one by one, as the stage has them)
    policy_dir: Path,
    trajectories: Sequence[Trajectory],
    *,
    instruction: str,
    settings: TrainSettings,
    out_dir: Path,
    work_dir: Path,
    seed: int,
    max_length: int,
    chat_format: str,
    device: str = "auto",
) -> SftResult:
    """Fine-tune a policy on trajectories and write the new policy folder.

    Args:
        policy_dir: base policy folder.
        trajectories: at least one.
        instruction: the environment's instruction text.
        settings: the `sft` section.
        out_dir: replaced by a Hugging Face folder, or by an adapter with `pointer.json` where `settings.lora` is set.
        work_dir: resume folder of this very run; the caller removes it afterwards.
        seed: of the stage.
        max_length: tokens of one conversation.
        chat_format: name of the chat format.
        device: auto, cpu or cuda.

    Raises:
        DataError: no trajectory, or one without a supervised token.
        ModelMismatch: the tokenizer does not fit the model or the chat format.
    """
    if not trajectories:
        raise DataError("sft: no trajectory to train on; run the stage `expert`")
    work_dir.mkdir(parents=True, exist_ok=True)
    chat = load_chat_format(chat_format, load_checked_tokenizer(policy_dir))
    rows = [sft_row(trajectory, instruction, chat, max_length) for trajectory in trajectories]
    precision = resolve_precision(settings, device, work_dir)
    trained = run_job(TrainJob("sft", str(policy_dir), settings, seed, device, precision), rows, work_dir)
    save_policy(trained, policy_dir, out_dir, work_dir, lora=settings.lora is not None)
    metrics: dict[str, float | int | str] = {
        "trajectories": len(rows),
        "steps": trained.curve[-1].step,
        "tokens": trained.curve[-1].tokens,
        "supervised_tokens_per_epoch": sum(len(row.positions) for row in rows),
        "truncated_trajectories": sum(
            min(chat.row(history_of(instruction, t.observation, t.steps), max_length).action_ends) < 0
            for t in trajectories
        ),
        "loss_first": trained.curve[0].loss,
        "loss_last": trained.curve[-1].loss,
        "precision": trained.precision,
    }
    return SftResult(metrics, trained.curve)


def build_module(job: TrainJob) -> LanguageLoss:
    """Build the policy with its loss, ready to train; see `qlass.training.jobs`."""
    model: nn.Module = load_model(Path(job.policy_dir))
    choose_attention(cast("Any", model), pick_device(job.device))
    if job.settings.lora is not None:
        model = _with_adapters(model, job.settings.lora)
    return LanguageLoss(model.train(), job.precision)


def _with_adapters(model: nn.Module, lora: LoraSettings) -> nn.Module:
    """Freeze a model and put trainable low-rank adapters on all its linear layers."""
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.r,
        lora_alpha=cast("int", lora.alpha),
        lora_dropout=lora.dropout,
        target_modules="all-linear",
        task_type="CAUSAL_LM",
    )
    with quiet_peft():
        return cast("nn.Module", get_peft_model(cast("Any", model), config))


def save_policy(trained: Trained, policy_dir: Path, out_dir: Path, work_dir: Path, *, lora: bool) -> None:
    """Write a trained policy under a temporary name, open it again, and only then put it into place."""
    temporary = work_dir / "policy"
    shutil.rmtree(temporary, ignore_errors=True)
    temporary.mkdir(parents=True)
    model: Any = cast("LanguageLoss", trained.module).model
    if lora:
        # peft would write this machine's path.
        model.peft_config["default"].base_model_name_or_path = write_pointer(policy_dir, out_dir, temporary)
        # False: the vocabulary is the base's; peft would look for its config.json to find out.
        model.save_pretrained(temporary, save_embedding_layers=False)
        (temporary / "README.md").unlink(missing_ok=True)
    else:
        model.save_pretrained(temporary)
    copy_tokenizer(policy_dir, temporary)
    check_saved(temporary)
    replace_folder(temporary, out_dir)


def replace_folder(temporary: Path, out_dir: Path) -> None:
    """Put a finished folder in the place of an older one."""
    shutil.rmtree(out_dir, ignore_errors=True)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    # Not a rename: the work folder may be on another file system.
    shutil.move(temporary, out_dir)
