"""Where the time of a play goes, environment, policy, QNet or the rest: `python -m benchmarks.shares ENV [--tasks N]`.

The models of a finished run (`make run`) play the first dev tasks of an environment, the SFT policy greedily and by each
search of params.yaml, and explore the first training tasks. The workers of the stages do it, with the settings of
params.yaml, but each in one process on one thread of the CPU: no server, no `overlap`. What the driver calls is timed:

environment   new engines, reset, step, snapshot, restore; the CPU time of processes that engines start (a virtual machine)
policy        propose: histories to tokens, replies drawn, decoded and parsed
QNet          score: histories and replies to tokens, values
rest          the driver, the method or the tree, and the records, up to their file

share_of_PART (ENV, PLAY)             CPU seconds of the part, against those of the play
steps_alone_vs_in_play (ENV, PLAY)    steps per CPU second of the environment, against per CPU second of the play
tokens_alone_vs_in_play (ENV, PLAY)   generated tokens per CPU second of the policy, against per CPU second of the play

A play begins with loaded models that remember nothing, and with an environment that has played another task.
`make bench` plays the environments that have a finished run in this checkout.
"""

from __future__ import annotations

import argparse
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from functools import wraps
from multiprocessing import get_context
from pathlib import Path
from time import perf_counter, process_time
from typing import Any

import psutil

from benchmarks.rows import Row, save
from qlass.envs.core.panels import load_panel
from qlass.envs.core.pool import EnvPool, Watched
from qlass.errors import DataError, EnvironmentFault, QlassError, SettingsError
from qlass.jsonl import write_records
from qlass.records import Cost, Episode, Exploration
from tasks.playing import episodes
from tasks.playing.rollouts import EnvSpec, Models
from tasks.project import paths, settings
from tasks.project.settings import SFT, Settings
from tasks.running.shards import Worker
from tasks.stages import evaluate, explore

EXPLORE = "explore"
TASKS = 10
ENVIRONMENT, POLICY, QNET, REST = PARTS = ("environment", "policy", "QNet", "rest")

_SHARES = tuple(f"share_of_{part.lower()}" for part in PARTS)
_RATES = ("steps_alone_vs_in_play", "tokens_alone_vs_in_play")
COLUMNS = (*_SHARES, *_RATES)
NAME = re.compile(rf"(?P<what>{'|'.join(COLUMNS)}) \((?P<play>.+, .+)\)")
"""Name of a row: what, and environment and play."""

Calls = Mapping[str, Sequence[tuple[type, str]]]
"""By part, the methods that it consists of: class and name."""


@dataclass(slots=True)
class Spent:
    """Seconds of CPU time, and by the clock."""

    cpu: float = 0.0
    wall: float = 0.0


@dataclass(frozen=True, slots=True)
class Shares:
    """Where the time of a play went.

    Attributes:
        play: `sft`, a method, or `explore`.
        tasks: played or explored.
        whole: what was spent in all.
        parts: what was spent in each part that was asked, and in the rest.
        cost: of all tasks together.
    """

    play: str
    tasks: int
    whole: Spent
    parts: Mapping[str, Spent]
    cost: Cost

    def rows(self, env: str) -> list[Row]:
        """Return the rows of this play."""
        where, whole, how = f"({env}, {self.play})", self.whole.cpu, self.in_words()
        found = [
            Row.of(f"{share} {where}", 100 * self.parts[part].cpu / whole, 100.0, "% of CPU time", how)
            for part, share in zip(PARTS, _SHARES, strict=True)
            if part in self.parts
        ]
        counts = (self.cost.env_steps, ENVIRONMENT), (self.cost.generated_tokens, POLICY)
        for name, (count, part) in zip(_RATES, counts, strict=True):
            unit = f"{name.partition('_')[0]} per CPU second"
            found.append(Row.of(f"{name} {where}", count / self.parts[part].cpu, count / whole, unit, how))
        return found

    def in_words(self) -> str:
        """Return what was played, and where the time by the clock went."""
        panel = "train" if self.play == EXPLORE else "dev"
        walls = ", ".join(f"{part} {100 * one.wall / self.whole.wall:.1f} %" for part, one in self.parts.items())
        return (
            f"{self.tasks} tasks of {panel}, {self.cost.env_steps:,} steps, {self.cost.generated_tokens:,} tokens, "
            f"{self.whole.cpu:.1f} CPU seconds; by the clock {self.whole.wall:.1f} s: {walls}"
        )


@dataclass(frozen=True, slots=True)
class Work:
    """What is played.

    Attributes:
        run: plays a shard, as in the stage.
        items: the shard's items, one per task of the panel.
        kind: of its results.
        shard_size: tasks played at a time.
    """

    run: Worker
    items: Sequence[Any]
    kind: type[Episode] | type[Exploration]
    shard_size: int

    @classmethod
    def of(cls, env: str, play: str) -> Work:
        """Return the work of a stage with the models of a finished run, which runs them in this process."""
        given = alone(settings.load_all().on(env))
        environment, policy = EnvSpec.of(env, given.envs[env]), paths.policy(env, SFT)
        models = Models.of(given, env, SFT, policy, None)
        if play == EXPLORE:
            exploring = explore.ExploreSetup(environment, models, given.explore, given.base.seed)
            items = explore.tasks_of(env, None)
            return cls(explore.start(exploring), items, Exploration, given.explore.shard_size)
        setup = (
            episodes.EvaluationSetup.of(given, environment, models, SFT, evaluate.METHOD)
            if play == SFT
            else episodes.searching(given, environment, play, policy, paths.qnet(env))
        )
        seed, *_ = setup.settings.played_seeds()
        tasks = [(spec, seed) for spec in load_panel(paths.panel(env, "dev")).tasks]
        return cls(episodes.start(setup), tasks, Episode, given.evaluate.shard_size)

    def play(self, count: int, folder: Path) -> list[Any]:
        """Play the first tasks, and write the results into a folder, shard by shard."""
        found: list[Any] = []
        for first in range(0, count, self.shard_size):
            shard = self.run(self.items[first : min(first + self.shard_size, count)])
            write_records(folder / f"shard-{first:04d}.jsonl", shard, self.kind)
            found += shard
        return found


def alone(given: Settings) -> Settings:
    """Return settings with which one thread of this process does all the work, on the CPU."""
    base = given.base.model_copy(update={"device": "cpu"})
    inference = given.inference.model_copy(update={"server": None, "overlap": False})
    return given.model_copy(update={"base": base, "inference": inference})


def calls() -> Calls:
    """Return what the driver calls; needs torch."""
    from qlass.policies.local import LocalPolicy, LocalValueFunction

    engine = [(Watched, name) for name in ("reset", "step", "snapshot", "restore")]
    return {
        ENVIRONMENT: [(EnvPool, "take"), *engine],
        POLICY: [(LocalPolicy, "propose")],
        QNET: [(LocalValueFunction, "score")],
    }


@contextmanager
def timing(parts: Calls) -> Iterator[dict[str, Spent]]:
    """Time every call of some methods, none of which calls another; yield what each part has spent so far."""
    spent = {part: Spent() for part in parts}
    with ExitStack() as undo:
        for part, methods in parts.items():
            for owner, name in methods:
                method = getattr(owner, name)
                setattr(owner, name, _timed(method, spent[part]))
                undo.callback(setattr, owner, name, method)
        yield spent


def _timed(method: Callable[..., Any], spent: Spent) -> Callable[..., Any]:
    @wraps(method)
    def call(*arguments: Any, **named: Any) -> Any:
        cpu, wall = process_time(), perf_counter()
        try:
            return method(*arguments, **named)
        finally:
            spent.cpu += process_time() - cpu
            spent.wall += perf_counter() - wall

    return call


def started_seconds() -> float:
    """Return the CPU seconds of all processes that this one has started, those that have ended included."""
    me = psutil.Process()
    living = sum(sum(child.cpu_times()[:4]) for child in me.children(recursive=True))
    return float(living + sum(me.cpu_times()[2:4]))


def measure(env: str, play: str, count: int) -> Shares:
    """Play in this process.

    Raises:
        EnvironmentFault: a task could not be played.
    """
    import torch

    torch.set_num_threads(1)
    work = Work.of(env, play)
    work.run(work.items[-1:])  # loads libraries, models and the first engine; this task does not count
    with tempfile.TemporaryDirectory() as folder, timing(calls()) as spent:
        cpu, wall, started = process_time(), perf_counter(), started_seconds()
        found = work.play(count, Path(folder))
        whole = Spent(process_time() - cpu, perf_counter() - wall)
        theirs = started_seconds() - started
    if lost := [f"{one.task_id} ({one.error})" for one in found if one.error]:
        raise EnvironmentFault(
            f"{play} on {env}: {len(lost)} of {count} tasks could not be played, the first is {lost[0]}; all must be, "
            "for a task that breaks off spends less; mend what it names"
        )
    whole.cpu += theirs
    spent[ENVIRONMENT].cpu += theirs
    parts = {part: one for part, one in spent.items() if one.wall}
    known = Spent(sum(one.cpu for one in parts.values()), sum(one.wall for one in parts.values()))
    parts[REST] = Spent(whole.cpu - known.cpu, whole.wall - known.wall)
    # A method's further rows share the cost of its own.
    costs = [one.tree.cost for one in found] if play == EXPLORE else [one.cost for one in found if one.method == play]
    return Shares(play, count, whole, parts, sum(costs, Cost()))


def missing(env: str) -> list[Path]:
    """Return what a finished run would have left here, and is not here."""
    panels = [paths.panel(env, split) for split in ("dev", "train")]
    return [
        path
        for path in (*panels, paths.trajectories(env), paths.policy(env, SFT), paths.qnet(env))
        if not path.exists()
    ]


def check(env: str, given: Settings, count: int) -> None:
    """Check that there is something to play.

    Raises:
        SettingsError: params.yaml has no such environment, or its panels are too small.
        DataError: there is no finished run.
    """
    if env not in given.envs:
        raise SettingsError(f"ENV: found {env!r}; allowed: {', '.join(given.envs)}, the environments of params.yaml")
    if absent := missing(env):
        raise DataError(
            f"{Path.cwd()} has no finished run on {env}: {', '.join(map(str, absent))} not found; allowed: a project with "
            f"panels, expert trajectories, SFT policy and QNet; put {env} into run.envs of params.yaml and run `make run`"
        )
    most = min(len(load_panel(paths.panel(env, split)).tasks) for split in ("dev", "train")) - 1
    if not 1 <= count <= most:
        raise SettingsError(
            f"--tasks: found {count}; allowed: 1 to {most}, for the last task of a panel ({env}: dev, train) is played "
            "before, to load what is needed; choose fewer, or make the panels larger"
        )


def measure_all(env: str, count: int) -> list[Shares]:
    """Measure all plays on an environment, each in a process of its own, which has played nothing yet.

    Raises:
        SettingsError, DataError: see `check`.
        EnvironmentFault: a task could not be played.
    """
    given = settings.load_all()
    check(env, given, count)
    with ProcessPoolExecutor(1, get_context("spawn"), max_tasks_per_child=1) as pool:
        waiting = [pool.submit(measure, env, play, count) for play in (SFT, *given.run.searches, EXPLORE)]
        return [one.result() for one in waiting]


def table(rows: Sequence[Row]) -> str:
    """Return what the rows of some plays say as a Markdown table; rows of other benchmarks are passed over.

    Shares are in % of the play's CPU time; steps are per CPU second of the environment, tokens per CPU second of the policy.
    """
    plays: dict[str, dict[str, str]] = {}
    for row in rows:
        if found := NAME.fullmatch(row.name):
            cell = f"{row.ours:.1f}" if found["what"] in _SHARES else f"{row.ours:,.0f}"
            plays.setdefault(found["play"], {})[found["what"]] = cell
    lines = [f"| play | {' | '.join(PARTS)} | steps/s | tokens/s |", f"|---|{'---:|' * len(COLUMNS)}"]
    for play, cells in plays.items():
        lines.append(f"| `{play}` | {' | '.join(cells.get(column, '-') for column in COLUMNS)} |")
    return "\n".join(lines)


def rows(tasks: int = TASKS) -> list[Row]:
    """Measure the environments that have a finished run here."""
    found = []
    for env in settings.load_all().envs:
        if missing(env):
            print(f"shares: {env} left out, there is no finished run on it here")
            continue
        found += [row for one in measure_all(env, tasks) for row in one.rows(env)]
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Measure one environment, print a table, write the rows; return the exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.shares", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("env", metavar="ENV")
    parser.add_argument("--tasks", metavar="N", type=int, default=TASKS, help=f"of each play (default {TASKS})")
    chosen = parser.parse_args(arguments)
    os.environ |= {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}  # before a process imports torch
    before = os.getloadavg()[0]
    try:
        found = measure_all(chosen.env, chosen.tasks)
    except QlassError as error:
        print(error, file=sys.stderr)
        return error.exit_code
    rows = [row for one in found for row in one.rows(chosen.env)]
    print(f"Shares of CPU time in %; steps per CPU second of the environment, tokens of the policy\n{table(rows)}")
    for one in found:
        print(f"{one.play}: {one.in_words()}")
    print(f"load average {before:.1f} at the start, {os.getloadavg()[0]:.1f} at the end")
    path = save(f"-shares-{chosen.env}", before, rows)
    print(f"written: {path}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
