"""DeepSpeed computes what the plain engine computes, saves all of it, and resumes exactly."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import qlass
from qlass.errors import QlassError, SettingsError
from qlass.training.core.backends import make_backend
from qlass.training.core.loop import train
from qlass.training.core.losses import LanguageLoss
from qlass.training.core.settings import TrainSettings
from tests.training import tiny
from tests.training.test_loop import some_rows

pytest.importorskip("deepspeed")
CPU = torch.device("cpu")
PLAIN = {"weight_decay": 0.01, "max_grad_norm": 0.5, "log_every": 1}


def run(folder: Path, settings: TrainSettings):
    engine = make_backend(LanguageLoss(tiny.model(), settings.precision), settings, CPU)
    curve = train(engine, some_rows(), settings, seed=7, folder=folder, fingerprint="f")
    return [row.loss for row in curve], engine.weights()


@pytest.mark.parametrize("stage", [0, 1, 2, 3])
def test_deepspeed_equals_torch(tmp_path: Path, stage: int) -> None:
    wanted, weights = run(tmp_path / "torch", tiny.train_settings(**PLAIN))
    losses, found = run(tmp_path / "ds", tiny.train_settings(**PLAIN, backend="deepspeed", zero_stage=stage))
    assert losses == pytest.approx(wanted, rel=1e-5)
    assert found.keys() == weights.keys()
    for name, value in weights.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-4, msg=name)
    assert "MASTER_PORT" not in os.environ


@pytest.mark.parametrize("stage", [1, 3])
def test_deepspeed_resumes_exactly(tmp_path: Path, stage: int, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = tiny.train_settings(**PLAIN, backend="deepspeed", zero_stage=stage, checkpoint_every=3)
    wanted, weights = run(tmp_path / "whole", settings)
    engine = make_backend(LanguageLoss(tiny.model(), "fp32"), settings, CPU)
    steps = []
    monkeypatch.setattr(
        engine, "step", lambda lr, step=engine.step: steps.append(step(lr)) if len(steps) < 4 else 1 / 0
    )
    with pytest.raises(ZeroDivisionError):
        train(engine, some_rows(), settings, seed=7, folder=tmp_path / "cut", fingerprint="f")
    losses, found = run(tmp_path / "cut", settings)
    assert losses == wanted
    assert all(torch.equal(found[name], value) for name, value in weights.items())


@pytest.mark.slow
@pytest.mark.parametrize("stage", [2, 3])
def test_two_ranks_equal_one(policy: Path, tmp_path: Path, stage: int) -> None:
    one = tiny.make_sft(policy, tmp_path, "one", **PLAIN)
    two = tiny.make_sft(policy, tmp_path, "two", **PLAIN, backend="deepspeed", zero_stage=stage, ranks=2)
    assert [row.loss for row in two.curve] == pytest.approx([row.loss for row in one.curve], rel=1e-4)
    wanted = load_file(tmp_path / "one" / "model.safetensors")
    found = load_file(tmp_path / "two" / "model.safetensors")
    assert wanted.keys() == found.keys()
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3, msg=name)


@pytest.mark.slow
def test_adapters_under_zero_3_with_two_ranks_are_whole(policy: Path, tmp_path: Path) -> None:
    settings = {**PLAIN, "zero_stage": 3, "checkpoint_every": 2, "lora": tiny.LORA}
    two = tiny.make_sft(policy, tmp_path, "two", **settings, backend="deepspeed", ranks=2)
    one = tiny.make_sft(policy, tmp_path, "one", **settings, backend="torch", ranks=1)
    assert [row.loss for row in two.curve] == pytest.approx([row.loss for row in one.curve], rel=1e-4)
    wanted = load_file(tmp_path / "one" / "adapter_model.safetensors")
    found = load_file(tmp_path / "two" / "adapter_model.safetensors")
    assert {name: value.shape for name, value in wanted.items()} == {name: v.shape for name, v in found.items()}
    work = tmp_path / "work-two"
    (work / "trained.json").unlink()
    with pytest.raises(SettingsError, match="saved by 2 ranks and this run has 1"):
        tiny.make_sft(policy, tmp_path, "two", **settings, backend="deepspeed", ranks=1)


@pytest.mark.slow
def test_what_a_rank_raises_arrives(policy: Path, tmp_path: Path) -> None:
    settings = {**PLAIN, "backend": "deepspeed", "ranks": 2, "lr": 1e38, "weight_decay": 1e38}
    with pytest.raises(QlassError, match="choose a smaller lr"):
        tiny.make_sft(policy, tmp_path, "out", **settings)


SCRIPT = """
import sys
from pathlib import Path
from qlass.recipes import sft
from tests.training import tiny
policy, work = map(Path, sys.argv[1:])
changes = {"epochs": 10000, "batch_size": 2, "lr": 1e-3, "backend": "deepspeed", "ranks": 2, "log_every": 1}
sft.make(tiny.ingredients(policy, work.parent, work_dir=work), tiny.sft_recipe(**changes))
"""


@pytest.mark.slow
@pytest.mark.parametrize("killed", ["stage", "supervisor", "launcher", "rank"])
def test_no_rank_outlives_what_it_belongs_to(policy: Path, tmp_path: Path, killed: str) -> None:
    root = Path(qlass.__path__[0]).parent
    work = tmp_path / "work"
    stage = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(policy), str(work)],
        env={**os.environ, "PYTHONPATH": str(root)}, cwd=root,
    )  # fmt: skip
    log = work / "ranks.log"
    _wait(lambda: log.exists() and "step=2/" in log.read_text())
    started = _processes_of(work)
    assert sorted(started.values()) == ["launcher", "rank", "rank", "stage", "supervisor"]
    os.kill(next(pid for pid, name in started.items() if name == killed), signal.SIGKILL)
    _wait(lambda: not _processes_of(work).keys() - {stage.pid}, 60.0)
    assert stage.wait(60) != 0
    assert json.loads((work / "job.json").read_text())["job"]["settings"]["ranks"] == 2


def _wait(condition, seconds: float = 240.0) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "waited too long"
        time.sleep(0.2)


def _processes_of(work: Path) -> dict[int, str]:
    """Processes, other than zombies, that have the work folder on their command line, and what they are."""
    marks = {"processes.py": "supervisor", "torch.distributed.run": "launcher", "qlass.training.core.worker": "rank"}
    found = {}
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            command = entry.read_text()
        except OSError:
            continue
        if str(work) in command:
            found[int(entry.parent.name)] = next((name for mark, name in marks.items() if mark in command), "stage")
    return found
