"""What is kept of the runs of a preset: `docs/results/<preset>/summary.json`, as frozen dataclasses.

Numbers are rounded to four decimals before anything is written from them, so that a table made of the file is the table
made of the runs.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from qlass.errors import DataError
from qlass.evaluation import Interval
from qlass.jsonl import read_json, write_json
from qlass.validation import problems

_DECIMALS = 4


@dataclass(frozen=True, slots=True)
class Run:
    """Where one run's numbers come from.

    Attributes:
        seed: `base.seed`.
        date: day (UTC) on which the run ended.
        commit: of git, when it ended; all stages were up to date with its code.
        dirty: whether there were changes beside that commit; `params.yaml` is none, its hash is here.
        params_sha256: of `params.yaml`.
        dvc_lock_sha256: of `dvc.lock`, which has the hashes of all inputs and outputs.
    """

    seed: int
    date: str
    commit: str
    dirty: bool
    params_sha256: str
    dvc_lock_sha256: str


@dataclass(frozen=True, slots=True)
class Stages:
    """The headline numbers of the stages before the comparison, of one run on one environment.

    Attributes:
        seed: of the run.
        expert_solved: tasks of the training panel that the expert solved, in percent.
        sft_loss: of SFT per token, at the end.
        exploration_reward: mean outcome reward x 100 of the branches that the policy sampled.
        qnet_error: squared error of the QNet on tasks that it did not learn from.
        qnet_mean_error: the same of always predicting the mean.
        sibling_accuracy: pairs of siblings that it orders rightly, in percent; None where there is no pair.
        sibling_pairs: how many there are.
    """

    seed: int
    expert_solved: float
    sft_loss: float
    exploration_reward: float
    qnet_error: float
    qnet_mean_error: float
    sibling_accuracy: float | None
    sibling_pairs: int


@dataclass(frozen=True, slots=True)
class Method:
    """A method in words.

    Attributes:
        name: method id.
        title: its name in tables.
        note: how it plays.
    """

    name: str
    title: str
    note: str


@dataclass(frozen=True, slots=True)
class Row:
    """One method on one split, in one run or in all.

    Attributes:
        split: a split, or `pooled`: all test splits.
        method: method id.
        seed: of the run; None for all runs together, where there are several.
        tasks: different tasks.
        reward: mean outcome reward x 100.
        success: success in percent.
        minus: paired differences in mean outcome reward x 100 to other methods, by method id.
        generated_tokens: per episode.
        env_steps: per episode.
        invalid_action_rate: share of executed actions that were not understood, in [0, 1].
    """

    split: str
    method: str
    seed: int | None
    tasks: int
    reward: Interval
    success: Interval
    minus: dict[str, Interval]
    generated_tokens: float
    env_steps: float
    invalid_action_rate: float


@dataclass(frozen=True, slots=True)
class EnvResults:
    """The results on one environment.

    Attributes:
        env: its name.
        label: how its numbers are labelled.
        published: the tasks are those of published results; else they are generated, or another selection.
        methods: in the order of tables.
        stages: one for each run.
        rows: every split, method and run, in the order of tables.
    """

    env: str
    label: str
    published: bool
    methods: tuple[Method, ...]
    stages: tuple[Stages, ...]
    rows: tuple[Row, ...]


@dataclass(frozen=True, slots=True)
class Kept:
    """The last complete runs of a preset.

    Attributes:
        preset: `default`, or the stem of a file in `presets/`.
        date: of the last run.
        confidence: of all intervals, in (0, 1).
        resamples: of all intervals.
        runs: one for each seed, in their order.
        envs: in the order of `run.envs`.
    """

    preset: str
    date: str
    confidence: float
    resamples: int
    runs: tuple[Run, ...]
    envs: tuple[EnvResults, ...]


_FILE: TypeAdapter[Kept] = TypeAdapter(Kept)


def rounded(value: Kept) -> Kept:
    """Return the same with all numbers as the file has them."""
    return _FILE.validate_python(_round(_FILE.dump_python(value)))


def write(path: Path, value: Kept) -> None:
    """Write the file, atomically; equal values give equal bytes."""
    write_json(path, _FILE.dump_python(value, mode="json"))


def read(path: Path) -> Kept:
    """Read the file.

    Raises:
        DataError: it is absent, or not what `write` writes.
    """
    try:
        return _FILE.validate_python(read_json(path))
    except ValidationError as error:
        raise DataError(f"{path}: {problems(error, _FILE)[0]}; keep the runs again with this version") from None


def _round(value: Any) -> Any:
    """Round every number in nested mappings and sequences."""
    if isinstance(value, Mapping):
        return {key: _round(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_round(inner) for inner in value]
    return round(value, _DECIMALS) if isinstance(value, float) else value
