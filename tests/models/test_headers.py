"""What config.json and the tokenizer say before a weight is read, and that the engine itself says the same."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoConfig, AutoModel

from qlass.errors import ModelMismatch, QlassError, SettingsError
from qlass.models.folders import check_headers
from qlass.policies.llama import LlamaTrunk
from tests.training import tiny


@pytest.fixture
def folder(policy: Path, tmp_path: Path) -> Path:
    """A whole model."""
    return Path(shutil.copytree(policy, tmp_path / "model"))


def change(folder: Path, changes: dict[str, Any], file: str = "config.json") -> None:
    values = json.loads((folder / file).read_text())
    (folder / file).write_text(json.dumps(values | changes))


def check(folder: Path, *, engine: bool = True, max_length: int = 512, chat_format: str = "qlass") -> None:
    check_headers(folder, chat_format=chat_format, max_length=max_length, engine=engine)


def refusal(folder: Path, *, engine: bool = True) -> str:
    with pytest.raises(ModelMismatch) as caught:
        check(folder, engine=engine)
    return str(caught.value)


def test_a_tiny_llama_passes(folder: Path) -> None:
    check(folder)


QWEN = {"model_type": "qwen2", "architectures": ["Qwen2ForCausalLM"]}
MISTRAL = {"model_type": "mistral", "architectures": ["MistralForCausalLM"]}
ROPE = {"rope_type": "dynamic", "rope_theta": 10000.0, "factor": 2.0}
ENGINE: list[tuple[dict[str, Any], str]] = [
    (QWEN, "model_type: found 'qwen2'; the local engine runs models with 'llama'. A server"),
    (MISTRAL, "model_type: found 'mistral'; the local engine runs models with 'llama'"),
    ({"rope_parameters": ROPE}, "rope_type: found 'dynamic'; the local engine runs models with 'default', 'linear'"),
    ({"hidden_act": "gelu"}, "hidden_act: found 'gelu'"),
    ({"attention_bias": True}, "attention_bias: found True"),
    ({"mlp_bias": True}, "mlp_bias: found True"),
    ({"auto_map": {"AutoModelForCausalLM": "modeling_own.Own"}}, "code of its own, which is never run here"),
]


@pytest.mark.parametrize(("changes", "message"), ENGINE, ids=lambda value: next(iter(value)))
def test_headers_and_engine_agree(folder: Path, changes: dict[str, Any], message: str) -> None:
    """Without a QNet, and with a server, the engine is not asked: the model is trained only.

    Rope types that an engine lacks were reported as ml-explore/mlx-lm#5 and vllm-project/vllm#9481.
    """
    change(folder, changes)
    said = refusal(folder)
    assert message in said
    check(folder, engine=False)
    model = AutoModel.from_config(AutoConfig.from_pretrained(folder))
    with pytest.raises(ModelMismatch, match="found") as caught:
        LlamaTrunk(model, dtype=torch.float32, cache_bytes=0)
    assert str(caught.value).partition(": ")[2] == said.partition(": ")[2]


def test_the_advice_is_true() -> None:
    """The QNet runs here too, whoever runs the policy."""
    model = tiny.model()
    model.config.hidden_act = "gelu"
    with pytest.raises(
        ModelMismatch, match=r"can run the policy instead, but not the QNet, which .* always runs here"
    ):
        LlamaTrunk(model.model, dtype=torch.float32, cache_bytes=0)


@pytest.mark.parametrize("engine", [True, False])
@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"quantization_config": {"quant_method": "awq", "bits": 4}}, "quantization_config: found awq; allowed: weights that"),
        ({"quantization_config": {"load_in_4bit": True}}, "quantization_config: found unknown method; allowed: weights"),
        ({"model_type": "mamba9"}, "model_type: found 'mamba9', which transformers cannot read"),
        ({"model_type": None}, "model_type: found None, which transformers cannot read"),
        ({"model_type": "own", "auto_map": {"AutoConfig": "c.Own"}}, "it comes with code of its own (auto_map), which is never"),
        ({"hidden_size": "large"}, "which transformers cannot read"),
        ({"num_attention_heads": 3}, "is not a multiple of the number of attention heads"),
        ({"model_type": "t5"}, "found 't5', an encoder with a decoder; allowed: a language model that continues a text"),
        ({"model_type": "bert", "architectures": ["BertModel"]}, "found 'bert'"),
        ({"model_type": "bert", "architectures": ["BertForMaskedLM"]}, "'bert', made for something else (BertForMaskedLM)"),
        ({"model_type": "vit", "architectures": ["ViTModel"]}, "'vit', made for something else (ViTModel)"),
        ({"model_type": "llava", "vision_config": {}, "architectures": ["LlavaForConditionalGeneration"]}, "reads images"),
        ({"architectures": ["LlamaForSequenceClassification"]}, "made for something else (LlamaForSequenceClassification)"),
    ],
)  # fmt: skip
def test_what_cannot_be_a_policy(folder: Path, changes: dict[str, Any], message: str, engine: bool) -> None:
    change(folder, changes)
    assert message in refusal(folder, engine=engine)


def test_heads_that_cannot_share_keys(folder: Path) -> None:
    change(folder, {"num_key_value_heads": 3})
    assert "num_key_value_heads: found 3; the local engine runs models with 1, 2, 4" in refusal(folder)


def test_code_of_a_model_never_runs(folder: Path) -> None:
    """Nor is anybody asked at a terminal whether it may."""
    change(folder, {"model_type": "own", "auto_map": {"AutoConfig": "own.Own", "AutoTokenizer": ["own.Own", None]}})
    (folder / "own.py").write_text(f"from pathlib import Path\nPath({str(folder / 'ran')!r}).touch()\n")
    refusal(folder)
    change(folder, {"model_type": "llama", "auto_map": {}})
    change(
        folder, {"tokenizer_class": "Own", "auto_map": {"AutoTokenizer": ["own.Own", None]}}, "tokenizer_config.json"
    )
    assert "the tokenizer cannot be read" in refusal(folder)
    assert not (folder / "ran").exists()


@pytest.mark.parametrize(
    ("rope", "allowed"),
    [
        ({"rope_type": "default"}, 512),
        ({"rope_type": "linear", "factor": 4.0}, 2048),
        ({"rope_type": "yarn", "factor": 4.0}, 2048),
        ({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 128}, 512),
        (
            {"rope_type": "llama3", "factor": 8.0, "original_max_position_embeddings": 64, "low_freq_factor": 1.0,
             "high_freq_factor": 4.0},
            512,
        ),
    ],
)  # fmt: skip
def test_no_conversation_is_longer_than_the_positions(folder: Path, rope: dict[str, Any], allowed: int) -> None:
    change(folder, {"rope_parameters": {"rope_theta": 10000.0, **rope}})
    check(folder, max_length=allowed)
    with pytest.raises(
        SettingsError, match=rf"base.max_length: found {allowed + 1}; allowed: 1 to {allowed}, the positions"
    ):
        check(folder, max_length=allowed + 1)


def test_a_tokenizer_that_needs_another_package(folder: Path) -> None:
    (folder / "tokenizer.json").unlink()
    change(folder, {"tokenizer_class": "LlamaTokenizer"}, "tokenizer_config.json")
    (folder / "tokenizer.model").write_bytes(b"\x0a\x0e\x0a\x05<unk>\x15\x00\x00\x00\x00\x18\x02")
    assert "make a tokenizer.json of it once: `AutoTokenizer.from_pretrained" in refusal(folder)


def test_tokenizers_that_do_not_fit(folder: Path) -> None:
    for values, message in (
        ({"vocab_size": 16}, "the model only 16 embedding rows"),
        ({"vocab_size": 64}, "has no eos_token"),
    ):
        change(folder, values)
        if "eos" in message:
            change(folder, {"eos_token": None}, "tokenizer_config.json")
        assert message in refusal(folder)
    with pytest.raises(QlassError):
        check(folder, chat_format="llama-2")
