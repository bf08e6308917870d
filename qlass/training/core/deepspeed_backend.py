"""Training through DeepSpeed, from one process on a CPU to ZeRO-3 over many GPUs, with the same numbers as plain torch.

Weights stay fp32 and the forward pass runs under autocast, as in the torch engine: ZeRO partitions weights, gradients
and optimizer states, it does not change what is computed.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch._C._distributed_c10d import HashStore

from qlass.errors import DependencyNotInstalled, SettingsError, StorageError
from qlass.training.core.backends import make_optimizer
from qlass.training.core.collate import MicroBatch
from qlass.training.core.settings import TrainSettings

_TAG = "state"


class DeepSpeedBackend:
    """See `qlass.training.core.backends.Backend`."""

    def __init__(self, module: nn.Module, settings: TrainSettings, device: torch.device) -> None:
        """Wrap a module that is already on its device; starts torch.distributed where nobody has.

        Raises:
            DependencyNotInstalled: DeepSpeed is missing.
            SettingsError: DeepSpeed computes on another kind of device.
        """
        self._launched = settings.ranks > 1  # then this is a process of our launcher, else of nobody's
        with _inside(launched=self._launched):
            deepspeed = _import_deepspeed(device)
            _join(deepspeed, device, launched=self._launched)
            self._gathered = deepspeed.zero.GatheredParameters
            self._engine: Any = deepspeed.initialize(
                model=module, optimizer=make_optimizer(module, settings), config=_config(settings)
            )[0]
        self.rank, self.ranks = torch.distributed.get_rank(), torch.distributed.get_world_size()
        self.device = device
        self._zero_stage = settings.zero_stage

    def accumulate(self, batch: MicroBatch, normaliser: float) -> Tensor:
        """See `Backend`."""
        with _inside(launched=self._launched):
            loss: Tensor = self._engine(*batch.inputs(self.device))
            # DeepSpeed averages gradients over ranks; ours are sums over the whole batch.
            self._engine.backward(loss * (self.ranks / normaliser), scale_wrt_gas=False)
        return loss.detach()

    def step(self, lr: float) -> None:
        """See `Backend`."""
        for group in self._engine.optimizer.param_groups:
            group["lr"] = lr
        with _inside(launched=self._launched):
            self._engine.step()

    def total(self, value: Tensor) -> float:
        """See `Backend`."""
        if self.ranks > 1:
            torch.distributed.all_reduce(value)
        return float(value)

    def barrier(self) -> None:
        """See `Backend`."""
        if self.ranks > 1:
            torch.distributed.barrier()

    def save(self, folder: Path) -> None:
        """See `Backend`. The files are DeepSpeed's own, one part per rank; frozen weights are left out."""
        with _inside(launched=self._launched):
            self._engine.save_checkpoint(str(folder), tag=_TAG, exclude_frozen_parameters=True)

    def load(self, folder: Path) -> None:
        """See `Backend`."""
        with _inside(launched=self._launched):
            found, _ = self._engine.load_checkpoint(str(folder), tag=_TAG, load_module_strict=False)
        if found is None:
            raise StorageError(f"{folder}: DeepSpeed finds no checkpoint in it; delete the folder and start again")

    def weights(self) -> dict[str, Tensor]:
        """See `Backend`. Under ZeRO-3 each parameter is gathered in turn: alone, a rank holds an empty tensor."""
        whole: dict[str, Tensor] = {}
        for name, parameter in self._engine.module.named_parameters():
            if parameter.requires_grad:
                with _inside(launched=self._launched), self._gathered([parameter], enabled=self._zero_stage == 3):
                    if self.rank == 0:
                        whole[name] = parameter.detach().float().cpu().clone()
        return whole


def _config(settings: TrainSettings) -> dict[str, Any]:
    """Return DeepSpeed's configuration; sizes of batches are the loop's business."""
    return {
        "train_micro_batch_size_per_gpu": 1,
        # Gradients accumulate until `step` is called: micro-batches of a step vary in number.
        "gradient_accumulation_steps": 1,
        "managed_gradient_accumulation": False,
        "gradient_clipping": settings.max_grad_norm,
        "zero_optimization": {"stage": settings.zero_stage, "overlap_comm": False},
        # torch's AdamW, as in the reference engine; DeepSpeed's own would be compiled on first use.
        "zero_allow_untested_optimizer": True,
        "zero_force_ds_cpu_optimizer": False,
        "steps_per_print": 2**31,
    }


def _import_deepspeed(device: torch.device) -> Any:
    """Import DeepSpeed without letting it compile anything."""
    os.environ["DS_ACCELERATOR"] = device.type  # `base.device` decides, and no variable
    try:
        import deepspeed
        import deepspeed.ops
    except ImportError as error:
        raise DependencyNotInstalled(
            f"backend=deepspeed needs DeepSpeed ({error}); `pip install deepspeed`, or set backend: torch"
        ) from error
    # init_distributed compiles this operator on every Linux machine: 47 s, and a killed compilation leaves a lock on
    # which all later runs wait for ever (pytorch/pytorch#189245). gloo does the same work.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    deepspeed.utils.logger.setLevel("ERROR")
    found = deepspeed.accelerator.get_accelerator().device_name()
    if not found.startswith(device.type):
        raise SettingsError(
            f"base.device: DeepSpeed, imported before, chose {found}, not {device.type}; use a new process"
        )
    return deepspeed


def _join(deepspeed: Any, device: torch.device, *, launched: bool) -> None:
    """Join the process group: the launcher's, or one of this process alone, which needs no port."""
    if device.type == "cuda":
        torch.cuda.set_device(device)
    if not torch.distributed.is_initialized():
        backend = "nccl" if device.type == "cuda" else "gloo"
        if launched:
            torch.distributed.init_process_group(backend)
        else:
            store = HashStore()
            torch.distributed.init_process_group(backend, store=store, rank=0, world_size=1)
    deepspeed.init_distributed(auto_mpi_discovery=False, verbose=False)


@contextmanager
def _inside(*, launched: bool) -> Iterator[None]:
    """Surround every call into DeepSpeed.

    It warns at each step of deprecated calls inside itself, and it reads the launcher's variables also where there was
    no launcher. Then it is told of one rank, whatever a scheduler or a notebook put there, which comes back afterwards.
    """
    alone = {"RANK": "0", "WORLD_SIZE": "1", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    told = {} if launched else alone
    before = {name: os.environ.get(name) for name in told}
    os.environ.update(told)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value
