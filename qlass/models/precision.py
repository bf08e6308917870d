"""Where to compute, and how precisely; the same answer for training, acting and scoring.

The hardware is asked what it has and nothing is timed: on a busy machine two runs, or two workers of one run, could
measure different answers.
"""

from __future__ import annotations

import os
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from qlass.errors import SettingsError


def pick_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; of several GPUs the current one, which a rank has set to its own.

    Raises:
        SettingsError: the name is another one, or `cuda` is asked for and absent.
    """
    if name not in ("auto", "cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        hidden = os.environ.get("CUDA_VISIBLE_DEVICES")
        missing = "this machine has no CUDA device" if hidden is None else f"CUDA_VISIBLE_DEVICES is {hidden!r}"
        allowed = "auto, cpu, cuda" if torch.cuda.is_available() else f"auto, cpu ({missing})"
        raise SettingsError(f"base.device: found {name!r}, allowed are {allowed}")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", torch.cuda.current_device() if torch.cuda.is_initialized() else 0)


def pick_precision(name: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """Resolve `auto`: bf16 where the device computes in it (it is up to 499 times slower where not), else fp32."""
    if name != "auto":
        return name
    return "bf16" if _has_bf16(device) else "fp32"


def autocast(device: torch.device, precision: Literal["fp32", "bf16"]) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass runs: bf16 products over fp32 weights, or nothing."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _has_bf16(device: torch.device) -> bool:
    """Say whether the device itself multiplies bf16 matrices: NVIDIA since Ampere, CPUs with AVX-512 BF16 or AMX."""
    if device.type == "cuda":
        return bool(torch.cuda.is_bf16_supported(including_emulation=False))
    found = torch.cpu.get_capabilities()
    return bool(found.get("avx512_bf16")) or bool(found.get("amx_bf16"))
