"""What one training run is told: the numbers that `sft` and `qnet` share in params.yaml."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Literal, Self

from qlass.errors import SettingsError

PRECISIONS = ("auto", "fp32", "bf16")
BACKENDS = ("deepspeed", "torch")


@dataclass(frozen=True, slots=True)
class LoraSettings:
    """Low-rank adapters instead of full fine-tuning (Hu et al., arXiv 2106.09685).

    Attributes:
        r: rank, at least 1.
        alpha: scale; the update is multiplied by alpha / r.
        dropout: in [0, 1), on the adapter's input.
    """

    r: int
    alpha: float
    dropout: float = 0.0

    def __post_init__(self) -> None:
        """Check the ranges."""
        check_whole("lora.r", self.r, 1)
        check_number("lora.alpha", self.alpha, low=0.0, low_open=True)
        check_number("lora.dropout", self.dropout, low=0.0, high=1.0, high_open=True)


@dataclass(frozen=True, slots=True)
class TrainSettings:
    """Settings of one training run.

    Attributes:
        epochs: passes over the rows, at least 1.
        batch_size: rows per optimizer step, over all ranks together.
        lr: peak learning rate.
        warmup_ratio: share of all steps, in [0, 1], over which the rate rises; then it falls as a cosine to zero.
        weight_decay: of AdamW, on all parameters.
        adam_beta2: in [0, 1); how long AdamW remembers squared gradients. Runs of a thousand steps want less than 0.999.
        max_grad_norm: gradients of one step are scaled down to this norm.
        precision: fp32, bf16 (autocast over fp32 weights) or auto (bf16 where a probe shows that it pays).
        backend: torch (the plain reference) or deepspeed.
        zero_stage: 0 to 3; what DeepSpeed partitions over the ranks.
        ranks: processes; more than one needs deepspeed.
        log_every: optimizer steps per row of the loss curve.
        checkpoint_every: optimizer steps between two resumable states.
        lora: None for full fine-tuning.
    """

    epochs: int
    batch_size: int
    lr: float
    warmup_ratio: float
    weight_decay: float
    max_grad_norm: float
    adam_beta2: float = 0.999
    precision: Literal["auto", "fp32", "bf16"] = "auto"
    backend: Literal["deepspeed", "torch"] = "torch"
    zero_stage: int = 1
    ranks: int = 1
    log_every: int = 5
    checkpoint_every: int = 50
    lora: LoraSettings | None = None

    def __post_init__(self) -> None:
        """Check names and ranges.

        Raises:
            SettingsError: names the key, the value found and what is allowed.
        """
        for name in ("epochs", "batch_size", "ranks", "log_every", "checkpoint_every"):
            check_whole(name, getattr(self, name), 1)
        check_number("lr", self.lr, low=0.0, low_open=True)
        check_number("warmup_ratio", self.warmup_ratio, low=0.0, high=1.0)
        check_number("weight_decay", self.weight_decay, low=0.0)
        check_number("adam_beta2", self.adam_beta2, low=0.0, high=1.0, high_open=True)
        check_number("max_grad_norm", self.max_grad_norm, low=0.0, low_open=True)
        check_choice("precision", self.precision, PRECISIONS)
        check_choice("backend", self.backend, BACKENDS)
        check_choice("zero_stage", self.zero_stage, (0, 1, 2, 3))
        if self.backend == "torch" and self.ranks > 1:
            raise SettingsError(f"ranks={self.ranks}, but backend=torch trains in one process; set backend: deepspeed")

    @classmethod
    def from_params(cls, section: str, values: Mapping[str, Any]) -> Self:
        """Read the section of params.yaml that holds exactly these keys (`lora` may be a mapping, null or absent).

        Raises:
            SettingsError: a key is missing or unknown, or a value is out of range; the message starts with `section`.
        """
        known = {field.name: field for field in fields(cls)}
        unknown = sorted(set(values) - set(known))
        missing = sorted({"epochs", "batch_size", "lr", "warmup_ratio", "weight_decay", "max_grad_norm"} - set(values))
        if unknown or missing:
            raise SettingsError(
                f"{section}: unknown keys {unknown}, missing keys {missing}; known are {sorted(known)}"
            )
        try:
            lora = values.get("lora")
            return cls(**{**values, "lora": None if lora is None else LoraSettings(**lora)})
        except TypeError as error:
            raise SettingsError(
                f"{section}.lora: {error}; write {{r: 16, alpha: 32, dropout: 0.05}} or null"
            ) from None
        except SettingsError as error:
            raise SettingsError(f"{section}.{error}") from None


def check_whole(name: str, value: object, low: int) -> None:
    """Check that `value` is a whole number of at least `low`; raise SettingsError that begins with `name`."""
    if type(value) is not int or value < low:
        raise SettingsError(f"{name}: found {value!r}, expected a whole number of at least {low}")


def check_number(
    name: str,
    value: object,
    *,
    low: float = -math.inf,
    high: float = math.inf,
    low_open: bool = False,
    high_open: bool = False,
) -> None:
    """Check that `value` is a finite number between `low` and `high`, ends included unless they are open."""
    fits = (
        isinstance(value, (int, float))
        and not isinstance(value, bool)
        and math.isfinite(value)
        and (value > low if low_open else value >= low)
        and (value < high if high_open else value <= high)
    )
    if not fits:
        interval = f"{'(' if low_open else '['}{low}, {high}{')' if high_open else ']'}"
        hint = "; YAML reads 1e-3 as text, write 1.0e-3" if isinstance(value, str) else ""
        raise SettingsError(f"{name}: found {value!r}, expected a number in {interval}{hint}")


def check_choice(name: str, value: object, allowed: tuple[object, ...]) -> None:
    """Check that `value` is one of the allowed ones."""
    if isinstance(value, bool) or value not in allowed:
        raise SettingsError(f"{name}: found {value!r}, allowed are {', '.join(map(str, allowed))}")
