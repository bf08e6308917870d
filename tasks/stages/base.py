"""Stage `base`: the base policy, as a copy of a local folder or as a pointer to a pinned Hugging Face model."""

from __future__ import annotations

import shutil
from pathlib import Path

from qlass.errors import SettingsError
from qlass.jsonl import write_json
from qlass.models.files import check_files
from qlass.models.sources import hub_headers, local_folder
from tasks.project import paths, preflight
from tasks.project.settings import runs_models
from tasks.running.runner import StageJob, run

FILES = ("*.json", "*.safetensors", "*.model", "*.txt", "*.jinja")
"""What a model consists of; pickles (*.bin, *.pt) are left out on purpose."""


def main(job: StageJob) -> None:
    """Check what can be known before training, then copy the folder, or write the pointer."""
    from qlass.models.folders import check_headers

    base = job.settings.base
    preflight.check()
    source = model_folder(base.source, base.revision)
    headers = source or hub_headers(base.source, str(base.revision))
    engine = runs_models(job.settings)
    chat = check_headers(headers, chat_format=base.chat_format, max_length=base.max_length, engine=engine)
    preflight.check_instructions(chat)
    if source is not None:
        copy(source, paths.BASE_POLICY)
        validate(paths.BASE_POLICY)
    else:
        shutil.rmtree(paths.BASE_POLICY, ignore_errors=True)
        write_json(paths.BASE_POLICY / "pointer.json", {"source": base.source, "revision": base.revision})


def model_folder(source: str, revision: str | None) -> Path | None:
    """Return the folder that `base.source` names, a whole model as far as its files tell; None for a Hugging Face id.

    Raises:
        SettingsError: it names neither, or the folder that this stage writes.
        ModelMismatch: the folder holds no whole model.
    """
    folder = local_folder(source, revision)
    if folder is None:
        return None
    if folder.resolve() == paths.BASE_POLICY.resolve():
        raise SettingsError(
            f"{paths.PARAMS}: base.source: found {source!r}, where the stage `base` writes its copy; copy the folder to "
            "models/NAME, and set base.source to that"
        )
    check_files(folder)
    return folder


def copy(source: Path, target: Path) -> None:
    """Copy the files of a model, each written under its own name only when complete."""
    shutil.rmtree(target, ignore_errors=True)
    target.mkdir(parents=True)
    for file in model_files(source):
        shutil.copyfile(file, target / file.name)


def model_files(folder: Path) -> list[Path]:
    """Return the files of which a model consists, sorted."""
    return sorted(file for pattern in FILES for file in folder.glob(pattern))


def validate(folder: Path) -> None:
    """Check that the weights are there, each of them a number, and fit config and tokenizer.

    Raises:
        ModelMismatch: something is missing or does not fit.
    """
    from qlass.models.folders import check_saved, load_policy

    check_saved(folder)
    load_policy(folder)


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
