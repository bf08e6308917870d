"""Whether the files of a folder are a whole model, asked before torch is loaded; if not, what they are and what to do."""

from __future__ import annotations

import json
from collections.abc import Collection
from pathlib import Path, PurePosixPath
from typing import Any

from safetensors import SafetensorError, safe_open

from qlass.errors import ModelMismatch

WEIGHTS = "model.safetensors"
INDEX = f"{WEIGHTS}.index.json"
TOKENIZERS: tuple[frozenset[str], ...] = tuple(
    map(frozenset, (["tokenizer.json"], ["tokenizer.model"], ["vocab.json", "merges.txt"], ["tekken.json"]))
)
"""Any of these makes a tokenizer; without one, transformers builds an empty one and says nothing."""

QUANTISED = (
    "allowed: weights that are not quantised, because they are trained on; take the model that this one was made from (its "
    "name mostly lacks the ending, as in -AWQ, -GPTQ, -bnb-4bit)"
)
"""What to do about quantised weights."""

GGUF = (
    "allowed: safetensors. GGUF holds quantised weights, which cannot be trained on; take the model in safetensors that it "
    "was made from"
)
"""What to do about GGUF files."""

_POINTER = b"version https://git-lfs"
_AGAIN = "fetch the file again and compare its size with the one at its source"


def check_files(folder: Path, names: Collection[str] | None = None) -> None:
    """Check that a Hugging Face folder has a configuration, whole safetensors and a tokenizer, each readable.

    Args:
        folder: to be looked at.
        names: of the model's files, relative to the folder, where they are not all there yet (a model on the Hub whose
            weights are fetched later); None: those in the folder.

    Raises:
        ModelMismatch: says what was found and what to do about it.
    """
    found = set(names) if names is not None else _names(folder)
    for name in sorted(found):
        if "/" not in name and (folder / name).is_symlink() and not (folder / name).exists():
            raise ModelMismatch(
                f"{folder / name}: a link to a file that is not here ({(folder / name).readlink()}); copy the folder "
                "again with what its links lead to (`cp -rL`)"
            )
    if "adapter_config.json" in found:
        raise ModelMismatch(f"{folder}: found a LoRA adapter (adapter_config.json); {_merge(folder)}")
    if "config.json" not in found:
        raise ModelMismatch(f"{folder}: found {_kind(folder, found)}")
    for name in sorted(found):
        if "/" not in name and name.endswith((".json", ".model", ".safetensors")) and (folder / name).is_file():
            _check_content(folder / name)
    if quantised := sorted(found & {"quantize_config.json", "quant_config.json"}):
        raise ModelMismatch(f"{folder}: found {quantised[0]}; {QUANTISED}")
    _check_weights(folder, found)
    if not any(wanted <= found for wanted in TOKENIZERS):
        raise ModelMismatch(
            f"{folder}: found no tokenizer, neither tokenizer.json nor tokenizer.model; copy the tokenizer's files from "
            "where the model comes from, or save them: `AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)`"
        )


def read_settings(path: Path) -> dict[str, Any]:
    """Return the JSON object that a file holds.

    Raises:
        ModelMismatch: it holds something else.
    """
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ModelMismatch(f"{path}: found no JSON ({error}); {_AGAIN}") from None
    if not isinstance(found, dict):
        raise ModelMismatch(f"{path}: found {type(found).__name__}; allowed: a JSON object; {_AGAIN}")
    return found


def _names(folder: Path) -> set[str]:
    """Return the names of the files, also of those up to three folders below, where a model may lie instead."""
    found = {path for depth in ("*", "*/*", "*/*/*", "*/*/*/*") for path in folder.glob(depth)}
    return {path.relative_to(folder).as_posix() for path in found if path.is_symlink() or not path.is_dir()}


def _merge(folder: Path) -> str:
    """Say how an adapter becomes a whole model."""
    if (folder / "pointer.json").is_file():  # one of ours, whose base is named relative to it
        return (
            f'allowed: a whole model. Merge it: `model, tokenizer = qlass.models.folders.load_policy(Path("{folder}"))`, then '
            "`model.save_pretrained(NEW)` and `tokenizer.save_pretrained(NEW)`, and set base.source to NEW"
        )
    path = folder / "adapter_config.json"
    base = read_settings(path).get("base_model_name_or_path") if path.is_file() else None
    base = base or "BASE_MODEL"
    return (
        f"allowed: a whole model. Merge it with {base}: "
        f'`AutoPeftModelForCausalLM.from_pretrained("{folder}").merge_and_unload().save_pretrained(NEW)` (peft), save the '
        f'tokenizer beside it: `AutoTokenizer.from_pretrained("{base}").save_pretrained(NEW)` (transformers), and set '
        "base.source to NEW"
    )


def _kind(folder: Path, found: set[str]) -> str:
    """Say what a folder without config.json is, and what to do."""
    endings = {PurePosixPath(name).suffix for name in found}
    below = sorted(name for name in found if name.endswith("/config.json"))
    if not found:
        return "an empty folder; fetch the model into it (`hf download OWNER/NAME --local-dir FOLDER`), or correct base.source"
    if "pointer.json" in found:
        return "the pointer of a policy folder (pointer.json); set base.source to the model that it names"
    if _deepspeed(found):
        return f"a DeepSpeed checkpoint, and no config.json; {_consolidate(folder)}"
    if ".gguf" in endings:
        return f"GGUF weights; {GGUF}"
    if "MLmodel" in found:
        return (
            "an MLflow model; save what it holds: "
            f'`parts = mlflow.transformers.load_model("{folder}", return_type="components")`, then '
            '`parts["model"].save_pretrained(NEW)` and `parts["tokenizer"].save_pretrained(NEW)`, and set base.source to NEW'
        )
    if below:
        inside = ", ".join(str(folder / PurePosixPath(name).parent) for name in below[:3])
        return f"no config.json here, but a model in {inside}; set base.source to that folder"
    if ".pth" in endings and "params.json" in found:
        return (
            "weights in Meta's own layout (*.pth, params.json); take the repository in transformers' layout (its name "
            "mostly ends with -hf), or convert it with transformers' convert_llama_weights_to_hf.py"
        )
    listed = ", ".join(sorted(found)[:5])
    return (
        f"no config.json, only {listed}; allowed: a folder in the layout of Hugging Face (config.json, {WEIGHTS}, "
        "tokenizer.json), as `model.save_pretrained(FOLDER)` and `tokenizer.save_pretrained(FOLDER)` write it"
    )


def _deepspeed(found: set[str]) -> bool:
    return any(part.startswith("global_step") for name in found for part in name.split("/")[:-1]) or any(
        name.endswith(("_model_states.pt", "_optim_states.pt")) for name in found
    )


def _consolidate(folder: Path) -> str:
    return (
        "allowed: safetensors. Join its parts: `python -m deepspeed.utils.zero_to_fp32 --safe_serialization "
        f"{folder} NEW`, copy config.json and the tokenizer to NEW, and set base.source to NEW"
    )


def _check_weights(folder: Path, found: set[str]) -> None:
    """Check that the weights are there, in safetensors, all parts of them."""
    if INDEX in found and (folder / INDEX).is_file():
        parts = read_settings(folder / INDEX).get("weight_map")
        if not isinstance(parts, dict) or not parts:
            raise ModelMismatch(f"{folder / INDEX}: found no weight_map, which says where each weight is; {_AGAIN}")
        if missing := sorted({str(name) for name in parts.values()} - found):
            raise ModelMismatch(
                f"{folder}: {INDEX} names {len(missing)} files that are missing: {', '.join(missing[:5])}; fetch them from "
                "where the model comes from"
            )
    if INDEX in found or WEIGHTS in found:
        return
    endings = {PurePosixPath(name).suffix for name in found if "/" not in name}
    others = sorted(name for name in found if "/" not in name and name.endswith(".safetensors"))
    if _deepspeed(found):
        problem = f"a DeepSpeed checkpoint without {WEIGHTS}; {_consolidate(folder)}"
    elif any(name.startswith("model-0") for name in others):
        problem = f"{len(others)} parts of weights without {INDEX}, which says what is where; fetch that file too"
    elif others:
        problem = f"weights as {', '.join(others[:5])}; allowed: {WEIGHTS}, or {INDEX} and its parts; rename the file"
    elif endings & {".bin", ".pt", ".pth"}:
        problem = (
            "weights as pickles (*.bin, *.pt), which can run code when they are read; allowed: safetensors. Convert them once: "
            f'`model = AutoModelForCausalLM.from_pretrained("{folder}", dtype="auto", use_safetensors=False)`, then '
            f'`model.save_pretrained("{folder}")`'
        )
    elif ".gguf" in endings:
        problem = f"GGUF weights; {GGUF}"
    elif endings & {".h5", ".msgpack"}:
        problem = "weights of TensorFlow or JAX; allowed: safetensors; take the model in safetensors from its page"
    else:
        problem = f"config.json without weights; fetch {WEIGHTS}, or {INDEX} and its parts, from where it comes from"
    raise ModelMismatch(f"{folder}: found {problem}")


def _check_content(path: Path) -> None:
    """Check that a file is what its name says, as far as its beginning and its size tell."""
    with path.open("rb") as file:
        if file.read(len(_POINTER)) == _POINTER:
            raise ModelMismatch(
                f"{path}: found a pointer of Git LFS instead of the file; run `git lfs pull` where it was cloned, or fetch the "
                "model with `hf download`"
            )
    if path.name in ("config.json", "tokenizer.json", "tokenizer_config.json"):
        read_settings(path)
    if path.suffix == ".safetensors":
        try:
            with safe_open(path, framework="np"):
                pass
        except (SafetensorError, OSError) as error:
            raise ModelMismatch(f"{path}: cut short, or no safetensors ({error}); {_AGAIN}") from None
