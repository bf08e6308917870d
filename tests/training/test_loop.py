"""Properties of the loop: what may vary without changing the result, and what is refused."""

import os
import signal
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import pytest
import torch

import qlass
from qlass.errors import SettingsError, StorageError
from qlass.training.core.backends import TorchBackend
from qlass.training.core.collate import MicroBatch
from qlass.training.core.loop import MicroLimits, train
from qlass.training.core.losses import LanguageLoss
from qlass.training.core.rows import TrainRow, make_row
from tests.training import tiny

CPU = torch.device("cpu")
SETTINGS = tiny.train_settings(weight_decay=0.01, log_every=3, checkpoint_every=2)


def some_rows(count: int = 14) -> list[TrainRow]:
    """Rows of different lengths and different numbers of supervised tokens."""
    generator = torch.Generator().manual_seed(0)
    rows = []
    for number in range(count):
        length = 12 + 7 * (number % 5)
        ids = torch.randint(0, 64, (length,), generator=generator).tolist()
        positions = list(range(number % 4, length - 1, 2 + number % 3))
        rows.append(make_row(ids, positions, [ids[position + 1] for position in positions]))
    return rows


class Interrupted(Exception):
    """Stands for a kill."""


class Interrupting(TorchBackend):
    """Dies before one step, or half-way through writing one checkpoint."""

    def __init__(self, dies_at: int = -1, dies_saving: int = -1) -> None:
        super().__init__(LanguageLoss(tiny.model(), "fp32").train(), SETTINGS, CPU)
        self.steps, self.saves, self.dies_at, self.dies_saving = 0, 0, dies_at, dies_saving

    def step(self, lr: float) -> None:
        if self.steps == self.dies_at:
            raise Interrupted
        self.steps += 1
        super().step(lr)

    def save(self, folder: Path) -> None:
        if self.saves == self.dies_saving:
            (folder / "weights.safetensors").write_bytes(b"half")
            raise Interrupted
        self.saves += 1
        super().save(folder)


def run(folder: Path, engine: TorchBackend, rows: Sequence[TrainRow] | None = None, limits: MicroLimits | None = None):
    rows = some_rows() if rows is None else rows
    return train(engine, rows, SETTINGS, seed=7, folder=folder, fingerprint="f", limits=limits), engine.weights()


def same(left: dict[str, torch.Tensor], right: dict[str, torch.Tensor]) -> bool:
    return left.keys() == right.keys() and all(torch.equal(left[name], right[name]) for name in left)


@pytest.mark.parametrize("limits", [MicroLimits(1, 1), MicroLimits(60, 2), MicroLimits(10**6, 64)])
def test_the_size_of_micro_batches_does_not_matter(tmp_path: Path, limits: MicroLimits) -> None:
    curve, weights = run(tmp_path / "a", Interrupting(), limits=limits)
    wanted_curve, wanted = run(tmp_path / "b", Interrupting(), limits=MicroLimits(1, 1))
    assert [row.loss for row in curve] == pytest.approx([row.loss for row in wanted_curve], rel=1e-5)
    for name, value in wanted.items():
        torch.testing.assert_close(weights[name], value, rtol=1e-3, atol=1e-5, msg=name)


@pytest.mark.parametrize(
    "dies", [{"dies_at": step} for step in (0, 1, 2, 5, 7)] + [{"dies_saving": n} for n in (0, 2)]
)
def test_interrupted_and_resumed_equals_uninterrupted(tmp_path: Path, dies: dict[str, int]) -> None:
    wanted_curve, wanted = run(tmp_path / "whole", Interrupting())
    with pytest.raises(Interrupted):
        run(tmp_path / "cut", Interrupting(**dies))
    curve, weights = run(tmp_path / "cut", Interrupting())
    assert curve == wanted_curve
    assert same(weights, wanted)


def test_a_finished_state_of_other_ranks_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, Interrupting(dies_at=5))
    engine = Interrupting()
    engine.ranks = 2
    with pytest.raises(SettingsError, match="saved by 1 ranks and this run has 2; resume with ranks=1, or delete"):
        run(tmp_path, engine)


def test_a_state_of_another_run_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        run(tmp_path, Interrupting(dies_at=5))
    with pytest.raises(StorageError, match="other data, settings or model"):
        train(Interrupting(), some_rows(), SETTINGS, seed=7, folder=tmp_path, fingerprint="other")


def test_a_loss_that_is_not_finite_is_an_error(tmp_path: Path) -> None:
    engine = Interrupting()
    with torch.no_grad():
        next(engine._module.parameters()).fill_(float("nan"))
    with pytest.raises(SettingsError, match="the loss became nan at step 1"):
        run(tmp_path, engine)


def test_weights_of_targets_are_respected(tmp_path: Path) -> None:
    """A weight of two equals the row being there twice."""
    rows = some_rows(2)
    twice = [rows[0], rows[1], rows[1]]
    heavy = [rows[0], TrainRow(rows[1].ids, rows[1].positions, rows[1].targets, rows[1].weights * 2)]
    _, wanted = run(tmp_path / "a", Interrupting(), twice)
    _, found = run(tmp_path / "b", Interrupting(), heavy)
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-3, atol=1e-5, msg=name)


def sft(policy: Path, folder: Path, name: str) -> None:
    tiny.make_sft(policy, folder, name, epochs=6, batch_size=2, log_every=1, checkpoint_every=3)


SCRIPT = """
import logging, sys
from pathlib import Path
import torch
torch.set_num_threads(1)
logging.basicConfig(level=logging.INFO, stream=sys.stdout)
from tests.training.test_loop import sft
sft(Path(sys.argv[1]), Path(sys.argv[2]), "cut")
"""


@pytest.mark.slow
def test_kill_9_and_resume_write_the_same_bytes(
    policy: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    root = Path(qlass.__path__[0]).parent
    killed = subprocess.Popen(
        [sys.executable, "-c", SCRIPT, str(policy), str(tmp_path)],
        stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": str(root)}, cwd=root,
    )  # fmt: skip
    for line in killed.stdout:
        if "step=8/" in line:
            killed.send_signal(signal.SIGKILL)
            break
    killed.communicate()
    assert killed.returncode == -signal.SIGKILL
    assert not (tmp_path / "cut").exists()
    sft(policy, tmp_path, "cut")
    assert "step=7/" in caplog.text
    assert "step=6/" not in caplog.text
    sft(policy, tmp_path, "whole")
    assert {path.name for path in (tmp_path / "whole").iterdir()} >= {"model.safetensors", "config.json"}
    for path in (tmp_path / "whole").iterdir():
        assert path.read_bytes() == (tmp_path / "cut" / path.name).read_bytes(), path.name


def test_pairs_reach_the_module_as_pairs(tmp_path: Path) -> None:
    """Each forward pass of an objective that compares two rows gets both, one after the other."""
    rows = [row for row in some_rows(10) for _ in range(2)]
    seen: list[torch.Tensor] = []

    class Recording(TorchBackend):
        def accumulate(self, batch: MicroBatch, normaliser: float) -> torch.Tensor:
            seen.append(batch.ids)
            return super().accumulate(batch, normaliser)

    settings = tiny.train_settings(epochs=1, batch_size=3)
    backend = Recording(LanguageLoss(tiny.model(), "fp32").train(), settings, CPU)
    curve = train(backend, rows, settings, seed=1, folder=tmp_path, fingerprint="f", together=2)
    assert curve[-1].step == 4  # ten pairs, three a step
    assert sum(len(ids) for ids in seen) == 20
    assert all(torch.equal(ids[::2], ids[1::2]) for ids in seen)
