"""What the local engine can run, said from a model's configuration and tokenizer, before any weight is read."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from qlass.errors import ModelMismatch, SettingsError
from qlass.models.files import QUANTISED, read_settings

if TYPE_CHECKING:
    from transformers import PreTrainedConfig

MODEL_TYPE = "llama"
"""The architecture that the local engine runs."""

ROPE_TYPES = ("default", "linear", "llama3", "yarn")
"""Rotary embeddings that do not change with the length of the sequence; cached keys could not follow the others."""


def check_engine(config: Any, where: str) -> None:
    """Check that the local engine computes a model as transformers does.

    Args:
        config: configuration of transformers.
        where: for the message.

    Raises:
        ModelMismatch: the model has parts that the engine does not know; says which, and what can be done.
    """
    if config.model_type != MODEL_TYPE:
        raise _foreign(where, "model_type", config.model_type, (MODEL_TYPE,))
    allowed: dict[str, tuple[object, ...]] = {
        "hidden_act": ("silu",),
        "attention_bias": (False,),
        "mlp_bias": (False,),
    }
    for name, values in allowed.items():
        if getattr(config, name) not in values:
            raise _foreign(where, name, getattr(config, name), values)
    if config.rope_parameters["rope_type"] not in ROPE_TYPES:
        raise _foreign(where, "rope_type", config.rope_parameters["rope_type"], ROPE_TYPES)
    if config.num_attention_heads % config.num_key_value_heads:
        raise _foreign(
            where,
            "num_key_value_heads",
            config.num_key_value_heads,
            [n for n in range(1, config.num_attention_heads + 1) if config.num_attention_heads % n == 0],
        )
    # What its own code computes is not known to us, though it may call itself a Llama.
    if own := sorted(name for name in vars(config).get("auto_map") or {} if name.startswith("AutoModel")):
        raise ModelMismatch(
            f"{where}: auto_map: found {', '.join(own)}: this model comes with code of its own, which is never run here. If "
            "it is a plain Llama all the same, take a copy of the folder without auto_map in its config.json as "
            "base.source, else another model"
        )


def read_config(folder: Path) -> PreTrainedConfig:
    """Read config.json, and check that it describes a language model with weights that can be trained.

    Raises:
        ModelMismatch: it does not; says what it describes, and what to do.
    """
    from transformers import AutoConfig

    path = folder / "config.json"
    raw = read_settings(path)
    if quantised := raw.get("quantization_config"):
        method = quantised.get("quant_method", "unknown method") if isinstance(quantised, dict) else quantised
        raise ModelMismatch(f"{path}: quantization_config: found {method}; {QUANTISED}")
    try:
        # False: never run code that comes with a model, and never ask whether to.
        config: PreTrainedConfig = AutoConfig.from_pretrained(folder, trust_remote_code=False)
    except Exception as error:  # whatever its checks and its arithmetic run into; the cause is kept
        own = raw.get("auto_map")
        advice = "it comes with code of its own (auto_map), which is never run here; " if own else ""
        raise ModelMismatch(
            f"{path}: model_type: found {raw.get('model_type')!r}, which transformers cannot read "
            f"({_first_line(error)}); {advice}choose a model of the Llama architecture as base.source"
        ) from error
    _check_kind(config, raw, path)
    return config


def _check_kind(config: PreTrainedConfig, raw: dict[str, Any], path: Path) -> None:
    """Check that a model continues a text and does nothing else."""
    from transformers.models.auto.modeling_auto import MODEL_FOR_CAUSAL_LM_MAPPING_NAMES as CAUSAL
    from transformers.models.auto.modeling_auto import MODEL_FOR_MASKED_LM_MAPPING_NAMES as MASKED

    kind, made_for = str(config.model_type), list(config.architectures or ())
    right = ("ForCausalLM", "LMHeadModel") if kind in MASKED else ("ForCausalLM", "LMHeadModel", "Model")
    others = [name for name in made_for if not name.endswith(right)]
    if "vision_config" in raw or "audio_config" in raw:
        what = "a model that also reads images or sound"
    elif config.is_encoder_decoder:
        what = "an encoder with a decoder"
    elif kind not in CAUSAL or others:
        what = f"made for something else ({', '.join(made_for) or 'no language model'})"
    else:
        return
    raise ModelMismatch(
        f"{path}: found {kind!r}, {what}; allowed: a language model that continues a text (...ForCausalLM), because a "
        "policy writes replies; choose a model of the Llama architecture as base.source"
    )


def check_length(config: Any, max_length: int, where: str) -> None:
    """Check that a Llama model has positions for the longest conversation: beyond them it writes nonsense, and no error.

    Raises:
        SettingsError: `max_length` is larger.
    """
    rope, known = config.rope_parameters, int(config.max_position_embeddings)
    # `linear` and `yarn` stretch the positions; a file may give the stretched number, or only the original one.
    stretched = rope["rope_type"] in ("linear", "yarn")
    if stretched and rope.get("original_max_position_embeddings", known) == known:
        known = int(known * float(rope["factor"]))
    if max_length > known:
        raise SettingsError(
            f"params.yaml: base.max_length: found {max_length}; allowed: 1 to {known}, the positions of the model "
            f"({where}: max_position_embeddings); lower it, or choose another base.source"
        )


def _foreign(where: str, name: str, found: object, allowed: Any) -> ModelMismatch:
    return ModelMismatch(
        f"{where}: {name}: found {found!r}; the local engine runs models with {', '.join(map(repr, allowed))}. A server "
        "(inference.server) can run the policy instead, but not the QNet, which starts as the policy and always runs here; so "
        "choose another model as base.source, or set inference.server and leave methods that need the QNet out of "
        "run.searches"
    )


def _first_line(error: BaseException) -> str:
    return f"{type(error).__name__}: {' '.join(str(error).split())[:300]}"
