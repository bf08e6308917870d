"""Stage `base`: the base policy, as a copy of a local folder or as a pointer to a pinned Hugging Face model."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

from qlass.errors import ModelMismatch, SettingsError
from qlass.jsonl import write_json
from tasks.project import paths
from tasks.running.runner import StageJob, run

COMMIT = re.compile(r"[0-9a-f]{40}")
HUB_ID = re.compile(r"[\w.-]+/[\w.-]+")
FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""What a model consists of; pickles (*.bin, *.pt) are left out on purpose."""


def main(job: StageJob) -> None:
    """Copy the folder, or write the pointer."""
    base = job.settings.base
    source = Path(base.source)
    if source.is_dir():
        copy(source, paths.BASE_POLICY)
        validate(paths.BASE_POLICY, base.chat_format)
        return
    if not HUB_ID.fullmatch(base.source) or base.source.startswith((".", "models/")):
        raise SettingsError(
            f"params.yaml: base.source: found {base.source!r}: no such folder, nor a model id `owner/name`"
        )
    if not COMMIT.fullmatch(base.revision or ""):
        raise SettingsError(
            f"params.yaml: base.revision: found {base.revision!r}; allowed: the 40 hexadecimal digits of a commit of "
            f"{base.source}, because a branch may change under the same name; copy it from the model's page"
        )
    write_json(paths.BASE_POLICY / "pointer.json", {"source": base.source, "revision": base.revision})


def copy(source: Path, target: Path) -> None:
    """Copy the files of a model, each written under its own name only when complete."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in model_files(source):
        shutil.copyfile(file, target / file.name)


def model_files(folder: Path) -> list[Path]:
    """Return the files of which a model consists, sorted."""
    return sorted(file for pattern in FILES for file in folder.glob(pattern))


def validate(folder: Path, chat_format: str) -> None:
    """Check that config, weights and tokenizer are there and fit each other and the chat format.

    Raises:
        ModelMismatch: something is missing or does not fit.
    """
    from safetensors import SafetensorError

    from qlass.models.folders import check_saved, load_policy
    from qlass.prompts import load_chat_format

    try:
        check_saved(folder)
    except SafetensorError as error:
        raise ModelMismatch(
            f"{folder}: no safetensors ({error}); fetch base.source again (`git lfs pull`?)"
        ) from error
    _, tokenizer = load_policy(folder)
    load_chat_format(chat_format, tokenizer)


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
