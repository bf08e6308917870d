"""Device and precision: what the hardware has decides, in training and in acting alike, and never a clock."""

import time
from pathlib import Path

import pytest
import torch

from qlass.errors import SettingsError
from qlass.models.precision import pick_device, pick_precision
from qlass.policies.base import Propose
from qlass.policies.load import LocalSettings, local_policy
from qlass.recipes import sft
from qlass.records import Message
from tests.training import tiny

CPU = torch.device("cpu")
PROCESSORS = [
    ({"avx2": True}, "fp32"),
    ({"avx2": True, "avx512_bf16": False, "amx_bf16": False}, "fp32"),
    ({"avx2": True, "avx512_bf16": True}, "bf16"),
    ({"avx2": True, "avx512_bf16": False, "amx_bf16": True}, "bf16"),
]


@pytest.mark.parametrize(("found", "expected"), PROCESSORS)
def test_auto_asks_the_processor(found: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    assert pick_precision("auto", CPU) == expected
    assert (pick_precision("fp32", CPU), pick_precision("bf16", CPU)) == ("fp32", "bf16")


def test_no_clock_is_read(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a busy machine a clock would say something else."""

    def forbidden() -> float:
        raise AssertionError("a clock was read")

    for name in ("perf_counter", "monotonic", "process_time", "time"):
        monkeypatch.setattr(time, name, forbidden)
    assert pick_precision("auto", CPU) in ("fp32", "bf16")


@pytest.mark.parametrize(("found", "expected"), PROCESSORS[1:3])
def test_training_and_acting_agree(
    policy: Path, tmp_path: Path, found: dict[str, bool], expected: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: found)
    given = tiny.ingredients(policy, tmp_path, expert=lambda: tiny.trajectories(4), device="cpu")
    result = sft.make(given, tiny.sft_recipe(epochs=1, precision="auto", log_every=1))
    assert result.metrics["precision"] == expected
    assert not list(tmp_path.rglob("precision.json"))
    request = Propose((Message("system", tiny.INSTRUCTION), Message("user", "see door 1")), (1, 2), 1.0)
    replies = {
        name: local_policy(tmp_path / "sft", LocalSettings("qlass", 200, 16, "cpu", precision=name), str).propose(
            [request]
        )
        for name in ("auto", "fp32", "bf16")
    }
    assert replies["fp32"] != replies["bf16"]
    assert replies["auto"] == replies[expected]


@pytest.mark.gpu
def test_auto_asks_the_gpu() -> None:
    if not torch.cuda.is_available():
        pytest.skip("needs an NVIDIA GPU")
    expected = "bf16" if torch.cuda.get_device_capability()[0] >= 8 else "fp32"
    assert pick_precision("auto", torch.device("cuda")) == expected


def test_other_devices_are_refused() -> None:
    with pytest.raises(SettingsError, match=r"base\.device: found 'tpu', allowed are auto, cpu"):
        pick_device("tpu")
