"""Where to compute, and how precisely: decided by measuring, never by a processor's name."""

from __future__ import annotations

import os
import time
from contextlib import AbstractContextManager, nullcontext
from typing import Any, Literal

import torch

from qlass.errors import SettingsError

SPEEDUP = 1.5
"""bf16 must be this much faster than fp32 to be chosen: on processors without it, it is up to 499 times slower."""


def pick_device(name: str) -> torch.device:
    """Return the device for `auto`, `cpu` or `cuda`; in a multi-process run, this rank's own GPU.

    Raises:
        SettingsError: the name is another one, or `cuda` is asked for and absent.
    """
    if name not in ("auto", "cpu", "cuda") or (name == "cuda" and not torch.cuda.is_available()):
        allowed = "auto, cpu, cuda" if torch.cuda.is_available() else "auto, cpu (this machine has no CUDA device)"
        raise SettingsError(f"base.device: found {name!r}, allowed are {allowed}")
    if name == "cpu" or not torch.cuda.is_available():
        return torch.device("cpu")
    return torch.device("cuda", int(os.environ.get("LOCAL_RANK", "0")))


def pick_precision(name: Literal["auto", "fp32", "bf16"], device: torch.device) -> Literal["fp32", "bf16"]:
    """Resolve `auto` with a probe of about 50 ms: the same matrix product in fp32 and in bf16, best of several."""
    if name != "auto":
        return name
    return "bf16" if _bf16_speedup(device) >= SPEEDUP else "fp32"


def autocast(device: torch.device, precision: Literal["fp32", "bf16"]) -> AbstractContextManager[Any]:
    """Return the context in which a forward pass runs: bf16 products over fp32 weights, or nothing."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _bf16_speedup(device: torch.device) -> float:
    """Measure how many times faster a bf16 matrix product is; both are timed in turn, so that load hits both."""
    best = {torch.float32: float("inf"), torch.bfloat16: float("inf")}
    for _ in range(6):
        for dtype in list(best):
            left = torch.ones(256, 512, device=device, dtype=dtype)
            right = torch.ones(512, 512, device=device, dtype=dtype)
            start = time.perf_counter()
            for _ in range(4):
                torch.mm(left, right)
            if device.type == "cuda":
                torch.cuda.synchronize(device)
            best[dtype] = min(best[dtype], time.perf_counter() - start)
    return best[torch.float32] / best[torch.bfloat16]
