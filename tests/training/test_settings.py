import dataclasses

import pytest

from qlass.errors import SettingsError
from qlass.training.settings import LoraSettings, TrainSettings

GOOD = {
    "epochs": 3, "batch_size": 8, "lr": 1e-3, "warmup_ratio": 0.03, "weight_decay": 0.0, "adam_beta2": 0.98, "max_grad_norm": 1.0,
    "precision": "auto", "backend": "deepspeed", "zero_stage": 1, "ranks": 1, "lora": None, "log_every": 5,
    "checkpoint_every": 50,
}  # fmt: skip


def test_reads_a_section_of_params() -> None:
    assert dataclasses.asdict(TrainSettings.from_params("sft", GOOD)) == GOOD
    lora = TrainSettings.from_params("sft", {**GOOD, "lora": {"r": 16, "alpha": 32, "dropout": 0.05}}).lora
    assert lora == LoraSettings(16, 32, 0.05)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"epochs": 0}, "sft.epochs: found 0, expected a whole number of at least 1"),
        ({"batch_size": 8.0}, "sft.batch_size: found 8.0"),
        ({"epochs": True}, "sft.epochs: found True"),
        ({"lr": 0.0}, r"sft.lr: found 0.0, expected a number in \(0.0, inf\]"),
        ({"lr": float("nan")}, "sft.lr: found nan"),
        ({"lr": "1e-3"}, "YAML reads 1e-3 as text"),
        ({"warmup_ratio": 1.5}, "sft.warmup_ratio"),
        ({"precision": "fp16"}, "sft.precision: found 'fp16', allowed are auto, fp32, bf16"),
        ({"backend": "jax"}, "sft.backend"),
        ({"zero_stage": 4}, "sft.zero_stage: found 4, allowed are 0, 1, 2, 3"),
        ({"zero_stage": True}, "sft.zero_stage"),
        ({"backend": "torch", "ranks": 2}, "ranks=2, but backend=torch"),
        ({"lora": {"r": 0, "alpha": 32}}, "sft.lora.r"),
        ({"lora": {"rank": 4}}, "sft.lora: .*rank"),
        ({"lora": 16}, "sft.lora"),
        ({"learning_rate": 1.0}, r"unknown keys \['learning_rate'\]"),
    ],
)
def test_refuses_what_it_does_not_understand(change: dict[str, object], message: str) -> None:
    with pytest.raises(SettingsError, match=message):
        TrainSettings.from_params("sft", {**GOOD, **change})


def test_names_missing_keys() -> None:
    with pytest.raises(SettingsError, match=r"missing keys \['lr'\]"):
        TrainSettings.from_params("sft", {key: value for key, value in GOOD.items() if key != "lr"})
