"""What the settings ask of a machine and of environments is asked before training, not by the stage that needs it."""

import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

from qlass.envs.core.base import Info
from qlass.envs.corridor import CorridorEnv
from qlass.errors import DependencyNotInstalled, SettingsError
from qlass.records import TaskSpec
from tasks.project import preflight
from tests.tasks.test_settings import SERVER

Params = Callable[[dict[str, Any]], None]
Stage = Callable[..., tuple[int, str]]


def without(monkeypatch: pytest.MonkeyPatch, package: str) -> None:
    """Make a package look as if it were not installed."""
    monkeypatch.setattr(preflight, "find_spec", lambda name: None if name == package else find_spec(name))


def test_this_machine_will_do(project: Path) -> None:
    preflight.check()


@pytest.mark.skipif(torch.cuda.is_available(), reason="there is a GPU")
def test_a_gpu_that_is_not_there(params: Params, stage: Stage) -> None:
    params({"base.device": "cuda"})
    with pytest.raises(
        SettingsError, match=r"base.device: found cuda; allowed: auto \| cpu, because PyTorch .* sees no GPU"
    ):
        preflight.check()
    for name in (("base",), ("train", "corridor", "sft")):
        code, log = stage(*name)
        assert code == 2
        assert "base.device: found cuda" in log


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"qnet.ranks": 2, "qnet.backend": "deepspeed"}, "qnet.ranks: found 2; allowed: 1 to 1, the GPUs"),
        ({"recipes.sft.ranks": 3}, r"recipes.sft.ranks: found 3; allowed: 1 to 1, the GPUs"),
        ({"envs.corridor.overrides.qnet": {"ranks": 4}}, "qnet.ranks: found 4; allowed: 1 to 1, the GPUs"),
    ],
)
def test_more_ranks_than_gpus(
    params: Params, monkeypatch: pytest.MonkeyPatch, changes: dict[str, Any], message: str
) -> None:
    """`params.yaml` asks for two ranks of the QNet; on a machine with one GPU the second found none after exploration."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    preflight.check()
    params(changes)
    with pytest.raises(SettingsError, match=message):
        preflight.check()
    params({"base.device": "cpu"})
    preflight.check()


def test_deepspeed_is_missing(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "deepspeed")
    params({"recipes.sft.backend": "torch", "qnet.backend": "deepspeed"})
    with pytest.raises(DependencyNotInstalled, match=r"qnet.backend: found deepspeed, which is not installed; `pip"):
        preflight.check()
    monkeypatch.setattr(sys, "platform", "darwin")
    with pytest.raises(DependencyNotInstalled, match=r"\(it is for Linux, and this is darwin\)"):
        preflight.check()
    params({"qnet.backend": "torch"})
    preflight.check()


def test_ray_is_missing(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    without(monkeypatch, "ray")
    preflight.check()
    params({"base.fanout": "ray"})
    with pytest.raises(DependencyNotInstalled, match=r"base.fanout: found ray, which is not installed; `pip install"):
        preflight.check()


def test_a_server_needs_its_client_and_its_key(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    params({"inference.server": {**SERVER, "api_key_env": "A_KEY_OF_OURS"}})
    with pytest.raises(SettingsError, match=r"api_key_env: found A_KEY_OF_OURS, a variable that is not set"):
        preflight.check()
    monkeypatch.setenv("A_KEY_OF_OURS", "secret")
    preflight.check()
    without(monkeypatch, "httpx")
    with pytest.raises(DependencyNotInstalled, match=r"inference.server needs httpx.*qlass\[serve\]"):
        preflight.check()


PARAPHRASER = {
    "base_url": "http://127.0.0.1:9/v1", "model": "writer", "api_key_env": "A_KEY_OF_OURS", "temperature": 1.0,
    "max_new_tokens": 60, "concurrency": 4, "timeout_s": 5.0, "retries": 0,
}  # fmt: skip


def test_a_paraphraser_needs_its_client_and_its_key(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """The stage `search` found out, after training. Where no search asks it, nothing is missing."""
    params({"run.envs": ["webshop"], "methods.qlass_perturbed.paraphraser": PARAPHRASER})
    preflight.check()
    params({"run.searches": ["qlass_perturbed"]})
    key = r"methods\.qlass_perturbed\.paraphraser"
    with pytest.raises(SettingsError, match=rf"{key}\.api_key_env: found A_KEY_OF_OURS, a variable that is not set"):
        preflight.check()
    monkeypatch.setenv("A_KEY_OF_OURS", "secret")
    preflight.check()
    without(monkeypatch, "httpx")
    with pytest.raises(DependencyNotInstalled, match=rf"{key} needs httpx.*qlass\[serve\]"):
        preflight.check()


def test_actions_that_are_not_listed(params: Params, monkeypatch: pytest.MonkeyPatch) -> None:
    """Exploration found out with its first action, after training."""
    params({"explore.candidates": "admissible", "evaluate.candidates": "admissible"})
    preflight.check()
    reset = CorridorEnv.reset

    def silent(self: CorridorEnv, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:
        observation, info = reset(self, spec, seed=seed)
        return observation, {**info, "admissible_actions": ()}

    monkeypatch.setattr(CorridorEnv, "reset", silent)
    with pytest.raises(
        SettingsError, match=r"explore.candidates: found admissible; allowed on corridor: generate, because"
    ):
        preflight.check()
    params({"explore.candidates": "generate", "evaluate.candidates": "generate"})
    preflight.check()


def test_an_instruction_that_leaves_no_room(params: Params, stage: Stage, tiny_policy: Path) -> None:
    params({"base.source": str(tiny_policy), "base.max_length": 100, "base.max_new_tokens": 20})
    code, log = stage("base")
    assert code == 2
    assert "base.max_length: the instruction and the newest turn alone have" in log
    assert "(environment corridor, its instruction alone)" in log
