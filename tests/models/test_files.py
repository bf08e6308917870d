"""Folders that are no whole model in safetensors: each is named, with what to do about it."""

import json
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

import qlass
from qlass.errors import ModelMismatch
from qlass.models.files import check_files
from qlass.models.folders import load_policy, quiet_peft
from tests.training import tiny

LFS = "version https://git-lfs.github.com/spec/v1\noid sha256:4d7a\nsize 7000000000\n"


@pytest.fixture
def folder(policy: Path, tmp_path: Path) -> Path:
    """A whole model."""
    return Path(shutil.copytree(policy, tmp_path / "model"))


def refusal(folder: Path) -> str:
    """Return what is said about a folder."""
    with pytest.raises(ModelMismatch) as caught:
        check_files(folder)
    assert str(folder) in str(caught.value)
    return str(caught.value)


def test_whole_models_pass(folder: Path) -> None:
    check_files(folder)
    model = tiny.model()
    (folder / "model.safetensors").unlink()
    model.save_pretrained(folder, max_shard_size="20KB")
    assert len(list(folder.glob("model-*.safetensors"))) > 1
    check_files(folder)


def emptied(folder: Path) -> None:
    shutil.rmtree(folder)
    folder.mkdir()


def only(*names: str) -> Callable[[Path], None]:
    """Return what leaves some files only, and makes those that are not there."""

    def damage(folder: Path) -> None:
        for path in folder.iterdir():
            if path.name not in names:
                path.unlink()
        for name in names:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).touch()

    return damage


def renamed(old: str, new: str) -> Callable[[Path], None]:
    return lambda folder: (folder / old).rename(folder / new) and None


def written(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def moved_below(folder: Path) -> None:
    names = list(folder.iterdir())
    (folder / "checkpoint-500").mkdir()
    for path in names:
        path.rename(folder / "checkpoint-500" / path.name)


def sharded_without(name: str) -> Callable[[Path], None]:
    def damage(folder: Path) -> None:
        (folder / "model.safetensors").unlink()
        tiny.model().save_pretrained(folder, max_shard_size="20KB")
        next(folder.glob(name)).unlink()

    return damage


def cut(folder: Path) -> None:
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-100])


def dangling(folder: Path) -> None:
    (folder / "model.safetensors").unlink()
    (folder / "model.safetensors").symlink_to("../../blobs/4d7a")


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (emptied, "found an empty folder; fetch the model into it (`hf download"),
        (only("config.json", "tokenizer.json"), "found config.json without weights; fetch model.safetensors, or"),
        (renamed("model.safetensors", "pytorch_model.bin"), "found weights as pickles (*.bin, *.pt), which can run code"),
        (renamed("model.safetensors", "model.gguf"), "found GGUF weights; allowed: safetensors. GGUF holds quantised"),
        (only("model-q4.gguf"), "found GGUF weights; allowed: safetensors"),
        (renamed("model.safetensors", "tf_model.h5"), "found weights of TensorFlow or JAX"),
        (renamed("model.safetensors", "model.fp16.safetensors"), "found weights as model.fp16.safetensors; allowed: model"),
        (sharded_without("model-00001-*"), "model.safetensors.index.json names 1 files that are missing: model-00001-of-"),
        (sharded_without("*.index.json"), "parts of weights without model.safetensors.index.json"),
        (written("quantize_config.json", "{}"), "found quantize_config.json; allowed: weights that are not quantised"),
        (written("model.safetensors.index.json", "{}"), "index.json: found no weight_map"),
        (written("model.safetensors", LFS), "model.safetensors: found a pointer of Git LFS instead of the file; run `git lfs"),
        (written("tokenizer.json", LFS), "tokenizer.json: found a pointer of Git LFS instead of the file; run `git lfs pull`"),
        (written("config.json", LFS), "config.json: found a pointer of Git LFS instead of the file; run `git lfs pull`"),
        (written("config.json", "<html>"), "config.json: found no JSON"),
        (written("config.json", "[1]"), "config.json: found list; allowed: a JSON object"),
        (written("model.safetensors", "<html>"), "model.safetensors: cut short, or no safetensors"),
        (cut, "model.safetensors: cut short, or no safetensors"),
        (dangling, "a link to a file that is not here (../../blobs/4d7a); copy the folder again"),
        (lambda folder: (folder / "tokenizer.json").unlink(), "found no tokenizer, neither tokenizer.json nor tokenizer.model"),
        (only("global_step500/mp_rank_00_model_states.pt", "latest"), "found a DeepSpeed checkpoint, and no config.json; all"),
        (
            only("config.json", "tokenizer.json", "global_step500/zero_pp_rank_0_mp_rank_00_optim_states.pt"),
            "python -m deepspeed.utils.zero_to_fp32 --safe_serialization",
        ),
        (moved_below, "found no config.json here, but a model in "),
        (only("params.json", "consolidated.00.pth"), "found weights in Meta's own layout"),
        (only("MLmodel"), 'mlflow.transformers.load_model("'),
        (only("pointer.json"), "found the pointer of a policy folder (pointer.json); set base.source to the model"),
        (only("notes.txt"), "found no config.json, only notes.txt; allowed: a folder in the layout of Hugging Face"),
    ],
)  # fmt: skip
def test_what_is_no_whole_model(folder: Path, damage: Callable[[Path], None], message: str) -> None:
    """A file format that the loader does not want was reported as lm-sys/FastChat#1530."""
    damage(folder)
    assert message in refusal(folder)


def test_a_checkpoint_below_is_named(folder: Path) -> None:
    moved_below(folder)
    assert "set base.source to that folder" in refusal(folder)
    assert str(folder / "checkpoint-500") in refusal(folder)


def test_the_remedy_for_pickles_works(folder: Path) -> None:
    weights = load_file(folder / "model.safetensors")
    torch.save(weights, folder / "pytorch_model.bin")
    (folder / "model.safetensors").unlink()
    code = [line for line in refusal(folder).split("`") if line.startswith("model")]
    names = {"AutoModelForCausalLM": AutoModelForCausalLM}
    exec("\n".join(code), names)  # noqa: S102  the lines that a user is told to run
    check_files(folder)
    found, _ = load_policy(folder)
    assert all(torch.equal(weights[name], value) for name, value in found.state_dict().items() if name in weights)


def test_the_remedy_for_adapters_works(folder: Path, tmp_path: Path) -> None:
    """Also where the adapter lies beside a whole model: transformers would load both, from wherever the adapter says."""
    adapter = tmp_path / "adapter"
    model = AutoModelForCausalLM.from_pretrained(folder)
    config = LoraConfig(r=2, target_modules="all-linear", task_type="CAUSAL_LM", base_model_name_or_path=str(folder))
    with quiet_peft():
        get_peft_model(model, config).save_pretrained(adapter)
    message = refusal(adapter)
    assert "found a LoRA adapter (adapter_config.json); allowed: a whole model. Merge it with" in message
    code = [line for line in message.split("`") if line.startswith("Auto")]
    assert len(code) == 2
    script = "from peft import AutoPeftModelForCausalLM\nfrom transformers import AutoTokenizer\nNEW = 'merged'\n"
    subprocess.run([sys.executable, "-c", script + "\n".join(code)], cwd=tmp_path, check=True)
    check_files(tmp_path / "merged")
    shutil.copy(adapter / "adapter_config.json", folder)
    assert "found a LoRA adapter" in refusal(folder)


def test_the_remedy_for_our_own_adapters_works(policy: Path, tmp_path: Path) -> None:
    tiny.make_sft(policy, tmp_path, lora=tiny.LORA)
    code = [line for line in refusal(tmp_path / "sft").split("`") if line.startswith("model")]
    names = {"qlass": qlass, "Path": Path, "NEW": tmp_path / "merged"}
    exec("\n".join([*code, "tokenizer.save_pretrained(NEW)"]), names)  # noqa: S102  what a user is told to run
    check_files(tmp_path / "merged")


def test_names_stand_for_files_that_are_not_there_yet(folder: Path) -> None:
    """Of a model on the Hub, weights are fetched later."""
    names = [path.name for path in folder.iterdir()]
    (folder / "model.safetensors").unlink()
    check_files(folder, names)
    with pytest.raises(ModelMismatch, match="found weights as pickles"):
        check_files(folder, [*(set(names) - {"model.safetensors"}), "pytorch_model.bin"])
    index = {"weight_map": {"a": "model-00001-of-00002.safetensors", "b": "model-00002-of-00002.safetensors"}}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index))
    with pytest.raises(ModelMismatch, match=r"names 1 files that are missing: model-00002-of-00002"):
        check_files(folder, [*names, "model.safetensors.index.json", "model-00001-of-00002.safetensors"])


def test_weights_of_one_tensor_are_safetensors(folder: Path) -> None:
    save_file({"one": torch.ones(1)}, folder / "model.safetensors")
    check_files(folder)
