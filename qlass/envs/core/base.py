"""The environment contract: `TextEnv`, as Gymnasium's Env but for text, plus what a package of an environment offers.

A new environment is one module with an `EnvDefinition` and one entry point in the group `qlass.envs`; nothing of ours
is edited. `check_env` (in `qlass.envs.core.checker`) says whether it keeps the contract.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from importlib.resources import files
from typing import Any, Protocol, TypeAlias, TypedDict

from qlass.errors import EnvironmentFault
from qlass.records import TaskSpec

Snapshot: TypeAlias = Any
"""Opaque copy of an engine's state; valid until the next `reset` of the environment that made it."""


class Info(TypedDict):
    """What an environment says beside the observation.

    Keys:
        admissible_actions: every action the engine would execute now, sorted; empty where an engine cannot say.
        valid: the last action was understood and executed (True after reset).
        success: the environment's success predicate, False before the end.
        outcome: what the episode would pay if it ended now, in [0, 1]; at the end it is the reward. Environments
            without partial credit have 0 until the end.
    """

    admissible_actions: tuple[str, ...]
    valid: bool
    success: bool
    outcome: float


StepResult: TypeAlias = tuple[str, float, bool, bool, Info]
"""(observation, reward in [0, 1], terminated, truncated, info)."""


class TextEnv(ABC):
    """A text environment. `snapshot` and `restore` make tree search cheap; engines without them are replayed.

    Rewards are outcome rewards: 0 until the last step of an episode.

    A task that cannot be played is an `EnvironmentFault`, raised by `reset`, `step`, `snapshot` or `restore`: it costs
    this one task, which counts as not solved, and the engine, which is closed. So an environment turns what its engine
    raises on damaged data, or when it dies, into that error, which says what was found and what to do. Any other
    exception is a bug and ends the stage.
    """

    @abstractmethod
    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:
        """Start the task; equal (spec, seed) give equal episodes for equal actions."""

    @abstractmethod
    def step(self, action: str) -> StepResult:
        """Execute one action. An action that is not understood is a step too, with `info["valid"]` False."""

    @abstractmethod
    def snapshot(self) -> Snapshot:
        """Copy the engine's state."""

    @abstractmethod
    def restore(self, snapshot: Snapshot) -> None:
        """Return to a state copied since the last `reset`."""

    @abstractmethod
    def close(self) -> None:
        """Free the engine, also one that raised an error; calling it twice is fine."""


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
        label: how numbers on this environment are labelled wherever shown; where options decide what is played (other
            data, another engine), a function of the options. Read it by `label_of`.
        categories: all values of TaskSpec.category, in table order.
        splits: the splits that it has, of train, dev, test_seen and test_unseen, in table order.
        packages: distributions whose versions can change what it does; its stages run again when one of them changes.
        max_engines: engines that one process may hold at a time, at least 1 (a virtual machine each, say); None: as
            many as asked for.
        published: says of options whether they play the very tasks of published results, of which the report then does
            not say that they are others.
        replays: going back to another state costs a replay of the actions up to it (`qlass.envs.core.replay`), so branches
            are played one after the other.
        partition_task: cuts an observation around the text of the task, as `str.partition` does: (before, task, after), or
            (observation, "", "") where it is not on it. The first observation has it. None: methods that say the task in
            other words cannot be played.

    Raises:
        EnvironmentFault: `max_engines` is below 1.
    """

    name: str
    make: Callable[[Mapping[str, Any]], TextEnv]
    panels: Callable[[Mapping[str, Any], str, int], Iterator[TaskSpec]]
    make_expert: Callable[[TaskSpec, int], Expert]
    instruction: str
    normalise_action: Callable[[str], str]
    label: str | Callable[[Mapping[str, Any]], str]
    categories: tuple[str, ...]
    splits: tuple[str, ...] = ("train", "dev", "test_seen", "test_unseen")
    packages: tuple[str, ...] = ()
    max_engines: int | None = None
    replays: bool = False
    published: Callable[[Mapping[str, Any]], bool] = lambda _: False
    partition_task: Callable[[str], tuple[str, str, str]] | None = None

    def __post_init__(self) -> None:
        """Check the number of engines; see Raises."""
        if self.max_engines is not None and self.max_engines < 1:
            raise EnvironmentFault(
                f"environment {self.name}: max_engines is {self.max_engines}; allowed are 1 or more, or None (no limit)"
            )

    def label_of(self, options: Mapping[str, Any]) -> str:
        """Return how numbers are labelled that were made with these options (the mapping under `envs.<name>.options`)."""
        return self.label if isinstance(self.label, str) else self.label(options)


def package_text(package: str, name: str) -> str:
    """Return a text file that lies in an environment's package, without surrounding blanks.

    Args:
        package: the package, mostly `__name__`.
        name: of the file, for example `instruction.txt`.
    """
    return (files(package) / name).read_text(encoding="utf-8").strip()
