"""The environment contract: `TextEnv`, as Gymnasium's Env but for text, plus what a package of an environment offers.

A new environment is one module with an `EnvDefinition` and one entry point in the group `qlass.envs`; nothing of ours
is edited. `check_env` (in `qlass.envs.core.checker`) says whether it keeps the contract.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol, TypeAlias, TypedDict

from qlass.records import TaskSpec

Snapshot: TypeAlias = Any
"""Opaque copy of an engine's state; valid until the next `reset` of the environment that made it."""


class Info(TypedDict):
    """What an environment says beside the observation.

    Keys:
        admissible_actions: every action the engine would execute now, sorted; empty where an engine cannot say.
        valid: the last action was understood and executed (True after reset).
        success: the environment's success predicate, False before the end.
    """

    admissible_actions: tuple[str, ...]
    valid: bool
    success: bool


StepResult: TypeAlias = tuple[str, float, bool, bool, Info]
"""(observation, reward in [0, 1], terminated, truncated, info)."""


class TextEnv(Protocol):
    """A text environment. `snapshot` and `restore` make tree search cheap; engines without them are replayed."""

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:
        """Start the task; equal (spec, seed) give equal episodes for equal actions."""

    def step(self, action: str) -> StepResult:
        """Execute one action. An action that is not understood is a step too, with `info["valid"]` False."""

    def snapshot(self) -> Snapshot:
        """Copy the engine's state."""

    def restore(self, snapshot: Snapshot) -> None:
        """Return to a state copied since the last `reset`."""

    def close(self) -> None:
        """Free the engine; calling it twice is fine."""


class Expert(Protocol):
    """A demonstrator that sees what an agent sees: one instance plays one episode."""

    def act(self, observation: str) -> tuple[str, str]:
        """Return (thought, action) for the newest observation."""


@dataclass(frozen=True, slots=True)
class EnvDefinition:
    """Everything the pipeline needs to know of an environment.

    Attributes:
        name: the key under `envs` in params.yaml.
        make: builds an engine from the environment's settings (the mapping under `envs.<name>.options`).
        panels: builds ordered TaskSpecs lazily from (options, split, seed); the caller takes as many as it wants.
        make_expert: builds an Expert from (spec, rng seed).
        instruction: the text of the system message.
        normalise_action: maps a written action to the form the engine executes; equal forms are equal actions.
        label: how numbers on this environment are labelled wherever shown.
        categories: all values of TaskSpec.category, in table order.
        splits: the splits that it has, of train, dev, test_seen and test_unseen, in table order.
        packages: distributions whose versions can change what it does; its stages run again when one of them changes.
    """

    name: str
    make: Callable[[Mapping[str, Any]], TextEnv]
    panels: Callable[[Mapping[str, Any], str, int], Iterator[TaskSpec]]
    make_expert: Callable[[TaskSpec, int], Expert]
    instruction: str
    normalise_action: Callable[[str], str]
    label: str
    categories: tuple[str, ...]
    splits: tuple[str, ...] = ("train", "dev", "test_seen", "test_unseen")
    packages: tuple[str, ...] = ()


def package_text(package: str, name: str) -> str:
    """Return a text file that lies in an environment's package, without surrounding blanks.

    Args:
        package: the package, mostly `__name__`.
        name: of the file, for example `instruction.txt`.
    """
    return (files(package) / name).read_text(encoding="utf-8").strip()
