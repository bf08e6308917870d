"""Policy folders: reading and writing them.

A policy folder is one of
* a Hugging Face folder (config.json, model.safetensors, tokenizer.json, ...),
* `pointer.json` {"source", "revision"}: a pinned Hugging Face id, or a folder relative to the pointer's own,
* a LoRA adapter (adapter_config.json, adapter_model.safetensors) beside the `pointer.json` of what it adapts.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

import torch
from safetensors import safe_open

from qlass.errors import DataError, ModelMismatch
from qlass.jsonl import read_json, write_json
from qlass.models.headers import check_engine, check_length, read_config
from qlass.prompts import ChatFormat, load_chat_format

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase

_TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer_config.json",
    "tokenizer.model",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)


def load_policy(
    folder: Path, *, dtype: torch.dtype = torch.float32, device: torch.device | str = "cpu"
) -> tuple[PreTrainedModel, PreTrainedTokenizerBase]:
    """Load the causal language model and the tokenizer of a policy folder; an adapter is merged into its base.

    Raises:
        DataError: the folder is not a policy folder.
        ModelMismatch: weights are missing or left over, or the tokenizer does not fit the model.
    """
    model = load_model(folder, dtype=dtype)
    tokenizer = load_tokenizer(folder)
    check_tokenizer(embedding_rows(model), tokenizer, str(folder))
    return model.to(device), tokenizer  # type: ignore[arg-type]


def load_model(folder: Path, *, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    """Load the model of a policy folder onto the CPU, in evaluation mode; errors as `load_policy`."""
    below = _below(folder)
    if below is None:
        model = from_pretrained("AutoModelForCausalLM", *_origin(folder), dtype)
    else:
        model = load_model(below, dtype=dtype)
    if not (folder / "adapter_config.json").exists():
        return model
    from peft import PeftModel

    with quiet_peft():
        adapted: Any = PeftModel.from_pretrained(model, folder)
        return cast("PreTrainedModel", adapted.merge_and_unload().eval())


def load_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a policy folder; where it has none of its own, that of what it points to."""
    if (folder / "tokenizer_config.json").exists() or (folder / "tokenizer.json").exists():
        return read_tokenizer(str(folder), None)
    below = _below(folder)
    if below is not None:
        return load_tokenizer(below)
    source, revision = _origin(folder)
    if source == str(folder):
        raise ModelMismatch(f"{folder}: has no tokenizer.json; copy the tokenizer of the model into it")
    return read_tokenizer(source, revision)


def read_tokenizer(source: str, revision: str | None) -> PreTrainedTokenizerBase:
    """Read the tokenizer of a folder or of a Hugging Face id.

    Raises:
        ModelMismatch: it cannot be read; says what to do.
    """
    from transformers import AutoTokenizer

    try:
        # False: never run code that comes with a model, and never ask whether to.
        found = AutoTokenizer.from_pretrained(source, revision=revision, trust_remote_code=False)
    except Exception as error:  # whatever the readers of many formats run into; the cause is kept
        raise ModelMismatch(
            f"{source}: the tokenizer cannot be read ({type(error).__name__}: {' '.join(str(error).split())[:300]}); where it has a "
            "tokenizer.model only, or code of its own, make a tokenizer.json of it once: "
            "`AutoTokenizer.from_pretrained(MODEL).save_pretrained(FOLDER)`, with sentencepiece and protobuf installed"
        ) from error
    return cast("PreTrainedTokenizerBase", found)


def from_pretrained(auto_class: str, source: str, revision: str | None, dtype: torch.dtype) -> PreTrainedModel:
    """Load a model of transformers strictly: a tensor that is missing would otherwise be drawn at random.

    Args:
        auto_class: `AutoModel` or `AutoModelForCausalLM`.
        source: a folder or a Hugging Face id.
        revision: commit of the id.
        dtype: of the weights.

    Raises:
        ModelMismatch: the files cannot be read, or weights and configuration do not fit.
    """
    import transformers

    transformers.utils.logging.disable_progress_bar()
    try:
        model, info = getattr(transformers, auto_class).from_pretrained(
            source, revision=revision, dtype=dtype, output_loading_info=True, trust_remote_code=False
        )
    except (OSError, ValueError, RuntimeError) as error:
        raise ModelMismatch(f"{source}: cannot be loaded as {auto_class}: {error}") from error
    problems = {
        key: sorted(map(str, info.get(key) or ())) for key in ("missing_keys", "unexpected_keys", "mismatched_keys")
    }
    if any(problems.values()):
        raise ModelMismatch(
            f"{source}: weights and config.json do not fit: {problems}; they are of different models, quantised, or not all here: "
            "fetch the model again, or choose another"
        )
    return cast("PreTrainedModel", model.eval())


def load_checked_tokenizer(folder: Path) -> PreTrainedTokenizerBase:
    """Load the tokenizer of a policy folder and compare it with the model's configuration, without loading weights.

    Raises:
        DataError: the folder is not a policy folder.
        ModelMismatch: the tokenizer does not fit the model.
    """
    from transformers import AutoConfig

    tokenizer = load_tokenizer(folder)
    source, revision = _origin(folder)
    config = AutoConfig.from_pretrained(source, revision=revision, trust_remote_code=False)
    check_tokenizer(int(config.vocab_size), tokenizer, str(folder))
    return tokenizer


def check_headers(folder: Path, *, chat_format: str, max_length: int, engine: bool) -> ChatFormat:
    """Check all that can be known of a model before its weights are read: its architecture, positions and tokenizer.

    Args:
        folder: with config.json and the tokenizer's files.
        chat_format: how messages become tokens.
        max_length: tokens of the longest conversation.
        engine: whether the local engine is to run it, or its QNet; otherwise it is trained only, by transformers.

    Returns:
        The chat format with the model's tokenizer.

    Raises:
        ModelMismatch: it cannot be run, or the tokenizer fits neither the model nor the chat format.
        SettingsError: it has fewer positions than `max_length`.
    """
    config: Any = read_config(folder)
    if engine:
        check_engine(config, f"{folder}/config.json")
        check_length(config, max_length, f"{folder}/config.json")
    tokenizer = read_tokenizer(str(folder), None)
    check_tokenizer(int(config.vocab_size), tokenizer, str(folder))
    return load_chat_format(chat_format, tokenizer)


def embedding_rows(model: PreTrainedModel) -> int:
    """Return how many token ids a model knows."""
    return cast("torch.nn.Embedding", model.get_input_embeddings()).num_embeddings


def check_tokenizer(rows: int, tokenizer: PreTrainedTokenizerBase, where: str) -> None:
    """Check that every id the tokenizer can produce has an embedding, and that it can end a turn.

    The special tokens that a chat format needs are checked by `qlass.prompts.load_chat_format`.

    Args:
        rows: token ids that the model knows.
        tokenizer: to be checked.
        where: for the message.

    Raises:
        ModelMismatch: it does not fit.
    """
    largest = max(tokenizer.get_vocab().values(), default=-1)
    if largest >= rows:
        raise ModelMismatch(
            f"{where}: the tokenizer has ids up to {largest}, the model only {rows} embedding rows; "
            "the tokenizer belongs to another model"
        )
    if tokenizer.eos_token_id is None:
        raise ModelMismatch(f"{where}: the tokenizer has no eos_token; set it in tokenizer_config.json")


def weights_fingerprint(model: torch.nn.Module) -> str:
    """Return a hash of names, shapes and some values of all weights; equal for models loaded from equal files.

    The first and the last thousand values of each tensor are taken: training changes every tensor everywhere.
    """
    digest = hashlib.blake2b(digest_size=16)
    for name, value in sorted(model.state_dict().items()):
        flat = value.detach().flatten()
        ends = torch.cat((flat[:1000], flat[-1000:])).float().cpu().numpy()
        digest.update(f"{name} {tuple(value.shape)} ".encode() + ends.tobytes())
    return digest.hexdigest()


def copy_tokenizer(source: Path, out: Path) -> None:
    """Copy the tokenizer files of a policy folder byte for byte; save them where the source is a Hugging Face id."""
    found = [name for name in _TOKENIZER_FILES if (source / name).exists()]
    below = None if found else _below(source)
    if below is not None:
        copy_tokenizer(below, out)
    elif not found:
        load_tokenizer(source).save_pretrained(out)
    for name in found:
        shutil.copyfile(source / name, out / name)


def write_pointer(policy_dir: Path, out_dir: Path, temporary: Path) -> str:
    """Write, for an adapter, the pointer to what it adapts; return the pointer's source.

    Args:
        policy_dir: what was adapted.
        out_dir: where the adapter folder will stand; a local source is written relative to it.
        temporary: where it is being written.
    """
    pointer = {"source": os.path.relpath(policy_dir, out_dir), "revision": None}
    whole = not (policy_dir / "adapter_config.json").exists()
    if whole and (policy_dir / "pointer.json").exists() and _below(policy_dir) is None:
        pointer = _pointer(policy_dir)
    write_json(temporary / "pointer.json", pointer)
    return str(pointer["source"])


def check_saved(folder: Path) -> None:
    """Open every safetensors file of a folder again: tensors must be there, finite, and matrices not all zero.

    Saving under ZeRO-3 without gathering writes empty tensors without a word; this is where it would show.

    Raises:
        ModelMismatch: names the file and the tensor.
    """
    files = sorted(folder.glob("*.safetensors"))
    if not files:
        raise ModelMismatch(f"{folder}: no safetensors file was written")
    for path in files:
        path.chmod(0o644)  # safetensors leaves its files readable by their owner alone, also in a shared cache
        with safe_open(path, framework="pt") as tensors:
            names = list(tensors.keys())
            if not names:
                raise ModelMismatch(f"{path}: holds no tensor")
            for name in names:
                value = tensors.get_tensor(name)
                if not value.numel() or not bool(value.isfinite().all()) or (value.dim() > 1 and not value.any()):
                    raise ModelMismatch(
                        f"{path}: tensor {name} of shape {tuple(value.shape)} is empty, zero or not finite"
                    )


def replace_folder(temporary: Path, out_dir: Path) -> None:
    """Put a finished folder in the place of an older one."""
    shutil.rmtree(out_dir, ignore_errors=True)
    out_dir.parent.mkdir(parents=True, exist_ok=True)
    # Not a rename: the work folder may be on another file system.
    shutil.move(temporary, out_dir)


@contextmanager
def quiet_peft() -> Iterator[None]:
    """Silence a deprecation inside peft 0.21: it reads a property of models that transformers 5.23 renamed."""
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", category=FutureWarning, message=".*is_gradient_checkpointing.*")
        yield


def _pointer(folder: Path) -> dict[str, Any]:
    """Read pointer.json."""
    path = folder / "pointer.json"
    pointer = read_json(path)
    if not isinstance(pointer, dict) or set(pointer) != {"source", "revision"}:
        raise DataError(f"{path}: found {pointer!r}, expected the keys source and revision")
    return pointer


def _below(folder: Path) -> Path | None:
    """Return the other folder that a policy folder points to; None where it points to none, or to the Hub."""
    if not (folder / "pointer.json").exists():
        return None
    below = folder / str(_pointer(folder)["source"])
    return below if below.is_dir() else None


def _origin(folder: Path) -> tuple[str, str | None]:
    """Return (folder or Hugging Face id, revision) of the full model that a policy folder stands for."""
    below = _below(folder)
    if below is not None:
        return _origin(below)
    if (folder / "pointer.json").exists():
        pointer = _pointer(folder)
        if not pointer["revision"]:
            raise ModelMismatch(
                f"{folder}/pointer.json: {pointer['source']!r} is no folder here and has no revision; "
                "set base.revision to the commit of the Hugging Face id"
            )
        return str(pointer["source"]), str(pointer["revision"])
    if not (folder / "config.json").exists():
        raise DataError(
            f"{folder}: not a policy; expected config.json (a Hugging Face folder), pointer.json, or an adapter "
            "with pointer.json; run the stage that writes it"
        )
    return str(folder), None
