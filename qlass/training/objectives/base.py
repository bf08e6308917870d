"""What an objective is; `qlass/training/objectives/<name>.py` has one as OBJECTIVE.

Nothing here and at the top of an objective's file imports torch: settings are read by programs that do not train.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import TYPE_CHECKING, Any

from qlass.training.core.settings import TrainSettings

if TYPE_CHECKING:
    from torch import nn

    from qlass.training.core.jobs import TrainJob


@dataclass(frozen=True, slots=True)
class Objective:
    """What is optimised.

    Attributes:
        settings: of a training run with this objective.
        build_module: makes what is trained; its forward pass turns a micro-batch into a summed loss. New parameters are
            drawn from torch's generator, which the caller has seeded.
        together: consecutive rows that stay together in a batch, for a loss that compares them (2: pairs).
    """

    settings: type[TrainSettings]
    build_module: Callable[[TrainJob[Any]], nn.Module]
    together: int = 1


def get_objective(name: str) -> Objective:
    """Return the objective of a file; a name, because a job also travels to other processes."""
    objective: Objective = import_module(f"{__package__}.{name}").OBJECTIVE
    return objective
