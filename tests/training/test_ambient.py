"""Variables of other launchers (Kubeflow, Slurm, a notebook, an outer torchrun) decide nothing about ranks."""

import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

import qlass
from qlass import processes
from qlass.models.precision import pick_device
from tests.ports import closed_port
from tests.training import tiny

pytest.importorskip("deepspeed")

OTHERS = {
    "RANK": "1",
    "WORLD_SIZE": "4",
    "LOCAL_RANK": "1",
    "LOCAL_WORLD_SIZE": "4",
    "GROUP_RANK": "1",
    "MASTER_ADDR": "127.0.0.1",
    "TORCHELASTIC_RUN_ID": "theirs",
    "TORCHELASTIC_USE_AGENT_STORE": "True",
    "OMPI_COMM_WORLD_RANK": "3",
    "OMPI_COMM_WORLD_SIZE": "4",
    "PMI_SIZE": "4",
    "PET_NNODES": "2",
    "PET_NPROC_PER_NODE": "3",
    "PET_NODE_RANK": "1",
    "PET_NO_PYTHON": "1",
    "PET_MASTER_ADDR": "127.0.0.1",
    "LOGLEVEL": "debug",
    "ACCELERATE_USE_FSDP": "true",
    "FSDP_CPU_RAM_EFFICIENT_LOADING": "true",
}
ONE_RANK = """
import os, sys
from pathlib import Path
from qlass.recipes import sft
from tests.training import tiny
before = dict(os.environ)
policy, folder = map(Path, sys.argv[1:])
made = sft.make(tiny.ingredients(policy, folder), tiny.sft_recipe(backend="deepspeed", log_every=1, precision="fp32"))
for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
    assert os.environ.get(name) == before.get(name), name
assert os.environ["DS_ACCELERATOR"] == "cpu"
print([row.loss for row in made.curve])
"""


def train(policy: Path, folder: Path, **ambient: str) -> str:
    """Train in one process with further variables; return the losses."""
    root = str(Path(qlass.__path__[0]).parent)
    folder.mkdir()
    env = {**processes.without_ranks(os.environ), "PYTHONPATH": root, "DS_ACCELERATOR": "cuda", **ambient}
    command = [sys.executable, "-c", ONE_RANK, str(policy), str(folder)]
    return subprocess.run(
        command, env=env, cwd=root, check=True, timeout=200, stdout=subprocess.PIPE, text=True
    ).stdout


@pytest.mark.slow
@pytest.mark.parametrize("rank", ["0", "1"])
def test_one_rank_waits_for_nobody(policy: Path, tmp_path: Path, rank: str) -> None:
    """As in pytorch/pytorch#81704 and pytorch/ignite#2048: rank 0 waited for the others, others for rank 0."""
    wanted = train(policy, tmp_path / "alone")
    ambient = {"RANK": rank, "WORLD_SIZE": "2", "LOCAL_RANK": rank, "MASTER_ADDR": "127.0.0.1"}
    assert train(policy, tmp_path / "told", **ambient, MASTER_PORT=str(closed_port())) == wanted


@pytest.mark.slow
def test_two_ranks_are_told_by_our_launcher_alone(
    policy: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """kubeflow/trainer#1840 lets its jobs set all of these; from PET_* torchrun takes its arguments."""
    one = tiny.make_sft(policy, tmp_path, "one", log_every=1, precision="fp32")
    for name, value in OTHERS.items():
        monkeypatch.setenv(name, value)
    two = tiny.make_sft(policy, tmp_path, "two", log_every=1, precision="fp32", backend="deepspeed", ranks=2)
    assert [row.loss for row in two.curve] == pytest.approx([row.loss for row in one.curve], rel=1e-4)
    wanted, found = (load_file(tmp_path / name / "model.safetensors") for name in ("one", "two"))
    for name, value in wanted.items():
        torch.testing.assert_close(found[name], value, rtol=1e-2, atol=1e-3, msg=name)


def test_what_belongs_to_the_machine_stays() -> None:
    machine = {
        "NCCL_SOCKET_IFNAME": "eth0",
        "GLOO_SOCKET_IFNAME": "eth0",
        "CUDA_VISIBLE_DEVICES": "0",
        "SLURM_JOB_ID": "7",
    }
    assert processes.without_ranks({**OTHERS, **machine}) == machine


def test_local_rank_chooses_no_gpu(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LOCAL_RANK", "5")
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    assert pick_device("cuda") == torch.device("cuda", 0)
