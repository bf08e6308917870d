"""A training run as data: the same job runs in this process, or in one process per rank."""

from __future__ import annotations

import hashlib
import json
import logging
import os
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, Literal, TypeVar

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

import qlass
from qlass import errors, processes
from qlass.errors import ModelMismatch, QlassError
from qlass.jsonl import read_json, replacing, write_json
from qlass.models.precision import pick_device
from qlass.seeds import derive_seed
from qlass.training.core.backends import make_backend
from qlass.training.core.checkpoint import LossRow
from qlass.training.core.loop import train
from qlass.training.core.rows import TrainRow, load_rows, rows_digest, save_rows
from qlass.training.core.settings import TrainSettings
from qlass.training.objectives.base import get_objective

LOG = logging.getLogger(__name__)

S = TypeVar("S", bound=TrainSettings)

GRACE_S = 2.0
"""Seconds from SIGTERM to SIGKILL of ranks: they have nothing to close, and the stage, which waits, has 15 itself."""


@dataclass(frozen=True, slots=True)
class TrainJob(Generic[S]):
    """What determines a training run, besides its rows.

    Attributes:
        name: of what is trained, for example sft or qnet; seeds are derived from it.
        objective: file of `qlass/training/objectives/`.
        policy_dir: the policy that training starts from.
        settings: of the run, as the objective declares them.
        seed: of the run.
        device: auto, cpu or cuda.
        precision: fp32 or bf16.
    """

    name: str
    objective: str
    policy_dir: str
    settings: S
    seed: int
    device: str
    precision: Literal["fp32", "bf16"]

    def values(self) -> dict[str, Any]:
        """Return the job as JSON values; of the settings, what the objective declares (a recipe may add its own)."""
        known = set(get_objective(self.objective).settings.model_fields)
        plain = {part.name: getattr(self, part.name) for part in fields(self)}
        return {**plain, "settings": self.settings.model_dump(include=known)}


@dataclass(frozen=True, slots=True)
class Trained:
    """What a job produced.

    Attributes:
        module: a fresh module with the trained weights, on the CPU.
        curve: the loss curve.
        precision: that was used.
    """

    module: nn.Module
    curve: list[LossRow]
    precision: Literal["fp32", "bf16"]


def run_job(job: TrainJob[Any], rows: Sequence[TrainRow], work_dir: Path) -> Trained:
    """Train, resuming where an earlier attempt stopped, and return the trained module.

    Args:
        job: what to train.
        rows: the training rows.
        work_dir: of this very run; the caller removes it afterwards.
    """
    fingerprint = _fingerprint(job, rows)
    done = work_dir / "trained.json"
    if not done.exists() or read_json(done)["fingerprint"] != fingerprint:
        if job.settings.ranks == 1:
            execute(job, rows, work_dir, fingerprint)
        else:
            save_rows(work_dir / "rows.safetensors", rows)
            write_json(work_dir / "job.json", {"job": job.values(), "fingerprint": fingerprint})
            _launch(job.settings.ranks, work_dir)
    module = build_module(job)
    load_weights(module, load_file(work_dir / "trained.safetensors"))
    curve = [LossRow(**row) for row in read_json(done)["curve"]]
    return Trained(module, curve, job.precision)


def execute(job: TrainJob[Any], rows: Sequence[TrainRow], work_dir: Path, fingerprint: str) -> None:
    """Train in this process, which may be one of several ranks; rank 0 writes `trained.*` into the work folder."""
    device = pick_device(job.device)
    backend = make_backend(build_module(job), job.settings, device)
    curve = train(
        backend,
        rows,
        job.settings,
        seed=job.seed,
        folder=work_dir / "checkpoints",
        fingerprint=fingerprint,
        together=get_objective(job.objective).together,
    )
    weights = backend.weights()
    if backend.rank == 0:
        with replacing(work_dir / "trained.safetensors") as temporary:
            save_file(weights, temporary)
        write_json(work_dir / "trained.json", {"fingerprint": fingerprint, "curve": [asdict(row) for row in curve]})
    backend.barrier()


def build_module(job: TrainJob[Any]) -> nn.Module:
    """Build what is trained, with new parameters (adapters, value head) drawn from the job's seed."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derive_seed(job.seed, job.name, "initial weights"))
        return get_objective(job.objective).build_module(job)


def load_weights(module: nn.Module, weights: dict[str, Tensor]) -> None:
    """Copy trained parameters into a module; all of them, and nothing else.

    Raises:
        ModelMismatch: names or shapes differ.
    """
    wanted = {name: value for name, value in module.named_parameters() if value.requires_grad}
    wrong = sorted(wanted.keys() ^ weights.keys()) or [
        name for name, value in wanted.items() if value.shape != weights[name].shape
    ]
    if wrong:
        raise ModelMismatch(f"trained weights do not fit the model: {wrong[:5]} ({len(wrong)} in all)")
    with torch.no_grad():
        for name, value in wanted.items():
            value.copy_(weights[name])


def read_job(work_dir: Path) -> tuple[TrainJob[Any], list[TrainRow], str]:
    """Read the job, its rows and its fingerprint, as a rank does."""
    stored: dict[str, Any] = read_json(work_dir / "job.json")
    values = stored["job"]
    settings = get_objective(values["objective"]).settings.model_validate(values["settings"])
    job = TrainJob(**{**values, "settings": settings})
    return job, load_rows(work_dir / "rows.safetensors"), stored["fingerprint"]


def _fingerprint(job: TrainJob[Any], rows: Sequence[TrainRow]) -> str:
    """Return a hash of what the result depends on, except the starting weights (the work folder's name covers those)."""
    values = job.values()
    # The number of ranks has its own, clearer check.
    values["settings"] = {key: value for key, value in values["settings"].items() if key != "ranks"}
    del values["policy_dir"], values["device"]
    return hashlib.blake2b(
        (json.dumps(values, sort_keys=True) + rows_digest(rows)).encode(), digest_size=16
    ).hexdigest()


def _launch(ranks: int, work_dir: Path) -> None:
    """Run one process per rank, and leave none behind.

    Raises:
        QlassError: what a rank raised, or that the ranks failed and where their log is.
    """
    for old in work_dir.glob("error-*.json"):
        old.unlink()
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={ranks}"]
    command += ["-m", "qlass.training.core.worker", str(work_dir)]
    source = str(Path(qlass.__path__[0]).parent)
    search = os.pathsep.join(filter(None, (source, os.environ.get("PYTHONPATH"))))
    # Nobody but this launcher tells the ranks who they are; whatever an outer one left here.
    environment = {"OMP_NUM_THREADS": "1", **processes.without_ranks(os.environ), "PYTHONPATH": search}
    log_path = work_dir / "ranks.log"
    with log_path.open("w", encoding="utf-8", buffering=1) as log:  # each line at once: a killed stage keeps them

        def keep(line: str) -> None:
            log.write(f"{line}\n")
            LOG.info("%s", line)

        code = processes.run(command, env=environment, on_line=keep, grace_s=GRACE_S)
    if code:
        raise _failure(work_dir, log_path, code)


def _failure(work_dir: Path, log_path: Path, code: int) -> QlassError:
    """Return the error of the first rank that said why, or the end of the log."""
    for path in sorted(work_dir.glob("error-*.json")):
        found = read_json(path)
        kind = getattr(errors, found["error"], QlassError)
        return kind(found["message"]) if issubclass(kind, QlassError) else QlassError(found["message"])
    tail = "\n".join(log_path.read_text(encoding="utf-8", errors="replace").splitlines()[-15:])
    return QlassError(f"the training ranks ended with code {code}; the end of {log_path}:\n{tail}")
