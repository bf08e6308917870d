"""Behaviour cloning of the base policy on trajectories (paper section 3.1): what recipes that imitate share."""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from qlass.errors import DataError
from qlass.prompts import load_chat_format, prompt_limit
from qlass.recipes.recipe import Ingredients, PolicyResult
from qlass.records import Trajectory
from qlass.training.objectives.sft import SftSettings, sft_rows

if TYPE_CHECKING:
    from qlass.training.core.jobs import Trained
    from qlass.training.core.losses import LanguageLoss


def imitate(given: Ingredients, settings: SftSettings, trajectories: Sequence[Trajectory]) -> PolicyResult:
    """Fine-tune the base policy; the new folder is a Hugging Face folder, or an adapter where `settings.lora` is set.

    Raises:
        DataError: no trajectory, or one without a supervised token.
        ModelMismatch: the tokenizer does not fit the model or the chat format.
    """
    from qlass.models.folders import load_checked_tokenizer
    from qlass.models.precision import pick_device, pick_precision
    from qlass.training.core.jobs import TrainJob, run_job

    if not trajectories:
        raise DataError(f"{given.name}: no trajectory to train on; run the stage `expert`")
    given.work_dir.mkdir(parents=True, exist_ok=True)
    chat = load_chat_format(given.chat_format, load_checked_tokenizer(given.base))
    max_prompt = prompt_limit(given.max_length, given.max_new_tokens)
    by_trajectory = [sft_rows(trajectory, given.instruction, chat, max_prompt) for trajectory in trajectories]
    rows = [row for rows in by_trajectory for row in rows]
    precision = pick_precision(settings.precision, pick_device(given.device))
    job = TrainJob(given.name, "sft", str(given.base), settings, given.seed, given.device, precision)
    trained = run_job(job, rows, given.work_dir)
    save_policy(trained, given.base, given.out_dir, given.work_dir, lora=settings.lora is not None)
    metrics: dict[str, float | int | str] = {
        "trajectories": len(trajectories),
        "steps": trained.curve[-1].step,
        "tokens": trained.curve[-1].tokens,
        "supervised_tokens_per_epoch": sum(len(row.positions) for row in rows),
        "truncated_trajectories": sum(len(rows) > 1 for rows in by_trajectory),
        "loss_first": trained.curve[0].loss,
        "loss_last": trained.curve[-1].loss,
        "precision": trained.precision,
    }
    return PolicyResult(metrics, trained.curve)


def save_policy(trained: Trained, policy_dir: Path, out_dir: Path, work_dir: Path, *, lora: bool) -> None:
    """Write a trained policy under a temporary name, open it again, and only then put it into place."""
    from qlass.models.folders import check_saved, copy_tokenizer, replace_folder, write_pointer

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
