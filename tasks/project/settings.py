"""The settings: params.yaml as frozen dataclasses, one per top-level key.

`load(stage, items)` gives a stage only the keys that its entry in `dvc.yaml` declares, because DVC re-runs a stage only
when a declared key changes. Keys that change no result (workers, fanout, device, tracking) are open to all.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, TypeAlias, TypeVar

from qlass.errors import SettingsError
from tasks.project import dvcfiles, paths
from tasks.project.strict import MAY_BE_EMPTY, Range, read

Item = TypeVar("Item")
Count: TypeAlias = Annotated[int, Range(at_least=1)]
Natural: TypeAlias = Annotated[int, Range(at_least=0)]
Positive: TypeAlias = Annotated[float, Range(above=0)]
NonNegative: TypeAlias = Annotated[float, Range(at_least=0)]
Fraction: TypeAlias = Annotated[float, Range(above=0, below=1)]
Ratio: TypeAlias = Annotated[float, Range(at_least=0, at_most=1)]
Precision: TypeAlias = Literal["auto", "fp32", "bf16"]
Backend: TypeAlias = Literal["deepspeed", "torch"]
ZeroStage: TypeAlias = Literal[0, 1, 2, 3]
Candidates: TypeAlias = Literal["generate", "admissible"]


@dataclass(frozen=True, slots=True)
class Run:
    """What runs: the matrices of dvc.yaml."""

    envs: tuple[str, ...]
    policies: Annotated[tuple[Literal["base", "sft"], ...], MAY_BE_EMPTY]
    searches: Annotated[tuple[Literal["best_of_n", "qlass", "qlass_adaptive"], ...], MAY_BE_EMPTY]
    splits: tuple[Literal["dev", "test_seen", "test_unseen"], ...]

    @property
    def methods(self) -> tuple[str, ...]:
        """The rows of the comparison."""
        return (*self.policies, *self.searches)


@dataclass(frozen=True, slots=True)
class Base:
    """Seed, machine and base policy."""

    seed: Natural
    workers: Count
    fanout: Literal["processes", "ray"]
    device: Literal["auto", "cpu", "cuda"]
    source: str
    revision: str | None
    chat_format: Literal["qlass", "llama-2"]
    max_length: Count


@dataclass(frozen=True, slots=True)
class Server:
    """An OpenAI-compatible server that runs the policy; see `qlass.policies.server.ServerSettings`."""

    base_url: str
    model: str
    api: Literal["completions", "chat"]
    api_key_env: str
    concurrency: Count
    timeout_s: Positive
    retries: Natural
    request_per_seed: bool
    logprobs: bool


@dataclass(frozen=True, slots=True)
class Inference:
    """How the processes of explore, evaluate and search run models and environments."""

    slots: Count | None
    overlap: bool
    cache_mb: Natural
    precision: Precision
    server: Server | None


@dataclass(frozen=True, slots=True)
class Panel:
    """Tasks per split."""

    train: Count
    dev: Count
    test_seen: Count
    test_unseen: Count


@dataclass(frozen=True, slots=True)
class Env:
    """One environment; `options` are checked by the environment itself."""

    max_steps: Count
    panel: Panel
    options: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Expert:
    """Stage expert."""

    thoughts: bool


@dataclass(frozen=True, slots=True)
class Lora:
    """Low-rank adaptation."""

    r: Count
    alpha: Count
    dropout: Annotated[float, Range(at_least=0, below=1)]


@dataclass(frozen=True, slots=True)
class Training:
    """What the stages that train have in common."""

    epochs: Count
    batch_size: Count
    lr: Positive
    warmup_ratio: Ratio
    weight_decay: NonNegative
    adam_beta2: Annotated[float, Range(at_least=0, below=1)]
    max_grad_norm: Positive
    precision: Precision
    backend: Backend
    zero_stage: ZeroStage
    ranks: Count
    log_every: Count
    checkpoint_every: Count


@dataclass(frozen=True, slots=True)
class Sft(Training):
    """Stage sft."""

    trajectories: Count | None
    lora: Lora | None


@dataclass(frozen=True, slots=True)
class Explore:
    """Stage explore."""

    tasks: Count | None
    width: Count
    depth: Natural
    temperature: NonNegative
    expert_branch: bool
    rollout_temperature: NonNegative | None
    max_invalid: Count | None
    max_redraws: Natural
    max_nodes: Count
    max_new_tokens: Count
    candidates: Candidates
    shard_size: Count


@dataclass(frozen=True, slots=True)
class Label:
    """Stage label."""

    gamma: Annotated[float, Range(above=0, at_most=1)]
    q_type: Literal["q", "average_reward", "reward"]


@dataclass(frozen=True, slots=True)
class Qnet(Training):
    """Stage qnet."""

    head_width: Count
    trunk: Literal["own", "policy"]
    target: Literal["q_norm", "q"]
    supervise: Literal["action_end", "every_token"]
    tail: Natural | None
    observation_loss: NonNegative
    tasks: Count | None
    validation_fraction: Fraction


@dataclass(frozen=True, slots=True)
class Adaptive:
    """What qlass_adaptive adds to qlass."""

    prior: NonNegative
    max_redraws: Natural
    redraw_below: Ratio
    redraw_temperature: NonNegative


@dataclass(frozen=True, slots=True)
class Evaluate:
    """Stages evaluate and search; what only searches need is not declared by evaluate."""

    seeds: tuple[Natural, ...]
    temperature: NonNegative
    proposals: Count
    rollouts: Count
    adaptive: Adaptive
    max_new_tokens: Count
    candidates: Candidates
    shard_size: Count


@dataclass(frozen=True, slots=True)
class Report:
    """Stage report."""

    bootstrap: Count
    confidence: Fraction


@dataclass(frozen=True, slots=True)
class Tracking:
    """MLflow; changes no result."""

    experiment: str
    max_traces: Natural


@dataclass(frozen=True, slots=True)
class Settings:
    """All of params.yaml."""

    run: Run
    base: Base
    inference: Inference
    envs: dict[str, Env]
    expert: Expert
    sft: Sft
    explore: Explore
    label: Label
    qnet: Qnet
    evaluate: Evaluate
    report: Report
    tracking: Tracking


OPEN_KEYS = ("base.workers", "base.fanout", "base.device", "tracking")
"""Keys that every stage may read, because no result depends on them."""


class Scope:
    """The part of the settings that a stage has declared; reading anything else is a SettingsError."""

    def __init__(self, value: Any, allowed: tuple[str, ...], owner: str, prefix: str = "") -> None:
        """Wrap a settings object or mapping; `allowed` are dotted keys, `owner` is named in the message."""
        self._value, self._allowed, self._owner, self._prefix = value, allowed, owner, prefix

    def __getattr__(self, name: str) -> Any:
        """Return a declared value, or a Scope on the way to one."""
        key = f"{self._prefix}{name}"
        if name.startswith("_") or not any(_within(key, entry) or _within(entry, key) for entry in self._allowed):
            raise SettingsError(
                f"{paths.DVC_FILE}: stage {self._owner} reads {key}, but declares only {', '.join(self._allowed)}; "
                "add the key to its `params`, else DVC cannot know when to run it again"
            )
        value = self._value[name] if isinstance(self._value, dict) else getattr(self._value, name)
        if any(_within(key, entry) for entry in self._allowed):
            return value
        return Scope(value, self._allowed, self._owner, f"{key}.")


def load_all(path: Path = paths.PARAMS) -> Settings:
    """Read every setting.

    Raises:
        SettingsError: as `tasks.project.strict.read`; also for an environment in `run.envs` without an entry in `envs`, for a
            run without a method, and for more ranks than the backend knows.
    """
    settings = read(Settings, dvcfiles.read_yaml(path), str(path))
    if not settings.run.methods:
        raise SettingsError(
            f"{path}: run.policies and run.searches: found two empty lists; allowed: one of them; name a method"
        )
    for number, env in enumerate(settings.run.envs):
        if env not in settings.envs:
            raise SettingsError(
                f"{path}: run.envs[{number}]: found {env!r}; allowed: {', '.join(settings.envs)}; "
                f"choose one of these or add envs.{env}"
            )
    for name, section in (("sft", settings.sft), ("qnet", settings.qnet)):
        if section.backend == "torch" and section.ranks > 1:
            raise SettingsError(
                f"{path}: {name}.ranks: found {section.ranks}; allowed: 1 with {name}.backend torch; use deepspeed for more"
            )
    return settings


def load(cell: dvcfiles.Cell, path: Path = paths.PARAMS) -> Scope:
    """Return the settings that a stage may read: those it declares in `dvc.yaml`, and OPEN_KEYS."""
    return Scope(load_all(path), (*cell.params, *OPEN_KEYS), cell.name)


def declared(cell: dvcfiles.Cell, path: Path = paths.PARAMS) -> dict[str, Any]:
    """Return the values of the keys that a stage declares, as plain JSON values by dotted key."""
    settings = load(cell, path)
    found = {}
    for key in cell.params:
        value: Any = settings
        for part in key.split("."):
            value = getattr(value, part)
        found[key] = _plain(value)
    return found


def first(items: Sequence[Item], count: int | None, key: str, what: str) -> Sequence[Item]:
    """Return the first items, as many as the setting `key` says; all for None.

    Raises:
        SettingsError: there are fewer; `what` says what they are.
    """
    if count is not None and count > len(items):
        raise SettingsError(
            f"{paths.PARAMS}: {key}: found {count}; allowed: 1 to {len(items)} ({what}), or null for all of them"
        )
    return items[:count]


def _plain(value: Any) -> Any:
    """Return a setting as a JSON value."""
    return dataclasses.asdict(value) if dataclasses.is_dataclass(value) and not isinstance(value, type) else value


def _within(key: str, entry: str) -> bool:
    """Say whether `key` is `entry` or lies below it."""
    return key == entry or key.startswith(f"{entry}.")
