import pytest

from qlass.training.core.settings import LoraSettings
from qlass.training.objectives.sft import SftSettings
from tests.training import tiny

GOOD = {
    "epochs": 3, "batch_size": 8, "lr": 1e-3, "warmup_ratio": 0.03, "weight_decay": 0.0, "adam_beta2": 0.98, "max_grad_norm": 1.0,
    "precision": "auto", "backend": "deepspeed", "zero_stage": 1, "ranks": 1, "lora": None, "log_every": 5,
    "checkpoint_every": 50,
}  # fmt: skip


def test_reads_a_section_of_params() -> None:
    assert SftSettings.model_validate(GOOD).model_dump() == GOOD
    lora = SftSettings.model_validate({**GOOD, "lora": {"r": 16, "alpha": 32, "dropout": 0.05}}).lora
    assert lora == LoraSettings(r=16, alpha=32, dropout=0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "epochs: found 0, expected a whole number >= 1"),
        ({"batch_size": 8.0}, "batch_size: found 8.0, expected a whole number >= 1"),
        ({"epochs": True}, "epochs: found true, expected a whole number >= 1"),
        ({"log_every": 0}, "log_every: found 0, expected a whole number >= 1"),
        ({"checkpoint_every": 0}, "checkpoint_every: found 0, expected a whole number >= 1"),
        ({"ranks": 0}, "ranks: found 0, expected a whole number >= 1"),
        ({"lr": 0.0}, "lr: found 0.0, expected a number > 0"),
        ({"lr": float("nan")}, "lr: found nan, expected a number > 0"),
        ({"lr": float("inf")}, "lr: found inf, expected a number > 0"),
        ({"lr": "1e-3"}, "lr: found '1e-3' (text), expected a number > 0"),
        ({"warmup_ratio": 1.5}, "warmup_ratio: found 1.5, expected a number >= 0 and <= 1"),
        ({"weight_decay": -0.1}, "weight_decay: found -0.1, expected a number >= 0"),
        ({"adam_beta2": 1.0}, "adam_beta2: found 1.0, expected a number >= 0 and < 1"),
        ({"max_grad_norm": 0.0}, "max_grad_norm: found 0.0, expected a number > 0"),
        ({"precision": "fp16"}, "precision: found 'fp16' (text), expected one of auto, fp32, bf16"),
        ({"backend": "jax"}, "backend: found 'jax' (text), expected one of deepspeed, torch"),
        ({"zero_stage": 4}, "zero_stage: found 4, expected a whole number >= 0 and <= 3"),
        ({"zero_stage": True}, "zero_stage: found true, expected a whole number >= 0 and <= 3"),
        ({"backend": "torch", "ranks": 2}, "ranks: found 2, expected 1 with backend torch; use deepspeed for more"),
        ({"lora": {"r": 0, "alpha": 32, "dropout": 0.0}}, "lora.r: found 0, expected a whole number >= 1"),
        ({"lora": {"r": 4, "alpha": 0, "dropout": 0.0}}, "lora.alpha: found 0, expected a number > 0"),
        ({"lora": {"r": 4, "alpha": 8, "dropout": 1.0}}, "lora.dropout: found 1.0, expected a number >= 0 and < 1"),
        ({"lora": 16}, "lora: found 16, expected a mapping with the keys r, alpha, dropout or null"),
    ],
)  # fmt: skip
def test_refuses_what_it_does_not_understand(change: dict[str, object], message: str) -> None:
    assert tiny.fault(SftSettings, {**GOOD, **change}) == message


def test_names_unknown_keys() -> None:
    found = tiny.fault(SftSettings, {**GOOD, "learning_rate": 1.0})
    assert found.startswith("learning_rate: unknown, expected one of epochs, batch_size, lr, ")
    found = tiny.fault(SftSettings, {**GOOD, "lora": {**tiny.LORA, "rank": 4}})
    assert found == "lora.rank: unknown, expected one of r, alpha, dropout"


@pytest.mark.parametrize("name", GOOD)
def test_names_missing_keys(name: str) -> None:
    """No key has a default: what is not said in params.yaml is not decided elsewhere."""
    found = tiny.fault(SftSettings, {key: value for key, value in GOOD.items() if key != name})
    assert found.startswith(f"{name}: missing, expected ")
