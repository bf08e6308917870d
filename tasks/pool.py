"""Compare methods over the runs of several seeds: `python -m tasks.pool ENV PROJECT PROJECT ...`.

Each PROJECT is a copy of this project in which the pipeline has run with another `base.seed`, which gives other games,
another policy and another QNet. Two tables are printed: the success of every method, and its difference to one of them
(SFT, or `--against METHOD`) on the same tasks of the same run. They show each seed, with an interval over its tasks,
and all together, with an interval over tasks and runs. It is no stage.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from collections import defaultdict
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path

from qlass.envs import get_definition
from qlass.envs.core.panels import load_panel
from qlass.errors import DataError, QlassError
from qlass.evaluation import Interval, interval_over_runs, mean_by_task, paired_differences
from qlass.evaluation.metrics import success
from qlass.jsonl import iter_records
from qlass.records import Episode
from qlass.report.headline import signed, span
from qlass.report.paper import in_order, method_name
from qlass.report.results import BASELINE
from tasks.project import paths, settings
from tasks.project.repetitions import projects_by_seed
from tasks.running import console, runner

Scores = dict[str, dict[str, float]]
"""method -> task (of any split) -> success in percent, over its seeds."""


def scores_of(project: Path, env: str, given: settings.Settings) -> Scores:
    """Read the episodes of one run.

    A task is named by the hash of its panel and its id: other seeds give other games the same ids.

    Raises:
        DataError: an evaluation that params.yaml asks for is missing.
    """
    found: dict[str, list[Episode]] = defaultdict(list)
    for method in given.run.methods:
        for split in given.evaluate.of(get_definition(env).splits):
            path = project / paths.episodes(env, method, split)
            if not path.exists():
                raise DataError(f"{path}: no such file; run the pipeline in {project} first")
            panel = load_panel(project / paths.panel(env, split)).sha256
            for episode in iter_records(path, Episode):
                task_id = f"{panel}/{episode.task_id}"
                found[episode.method].append(dataclasses.replace(episode, task_id=task_id))
    return {
        method: mean_by_task(episodes, lambda episode: 100 * success(episode)) for method, episodes in found.items()
    }


def tables(runs: Mapping[int, Scores], resamples: int, confidence: float, against: str = BASELINE) -> str:
    """Write two Markdown tables: success in percent, and the difference to one method; each seed, then all together.

    Args:
        runs: by seed.
        resamples: of every interval.
        confidence: of every interval, in (0, 1).
        against: the method that is subtracted; without SFT, there is no second table by default.

    Raises:
        DataError: the runs have different methods or not that one, or their panels are the same in part.
    """
    if len({frozenset(scores) for scores in runs.values()}) != 1:
        found = "; ".join(", ".join(sorted(scores)) for scores in runs.values())
        raise DataError(f"the runs have different methods: {found}")
    methods = in_order(next(iter(runs.values())))
    if against not in methods and against != BASELINE:
        raise DataError(f"--against: found {against!r}; allowed: {', '.join(methods)}")
    interval = partial(interval_over_runs, resamples=resamples, confidence=confidence, seed=0)

    def row(values: Sequence[Mapping[str, float]]) -> list[Interval]:
        each = [interval([by_task]) for by_task in values]
        return each if len(values) == 1 else [*each, interval(values)]

    levels = {name: row([scores[name] for scores in runs.values()]) for name in methods}
    parts = [f"Success in percent ({_words(confidence, levels[methods[0]])}):", _table(runs, levels, _level)]
    gaps = {
        name: row([paired_differences(scores[name], scores[against]) for scores in runs.values()])
        for name in methods
        if against in methods and name != against
    }
    if gaps:
        title = f"Minus {method_name(against)} on the same tasks of the same seed, in points (paired, same intervals):"
        parts += [title, _table(runs, gaps, _change)]
    return "\n\n".join(parts) + "\n"


def _words(confidence: float, row: Sequence[Interval]) -> str:
    """Say what the intervals of a row are over."""
    first, last = row[0].over, row[-1].over
    if len(row) == 1:
        return f"{confidence:.0%} interval over {first}"
    return f"{confidence:.0%} intervals: of one seed over {first}, of all seeds over {last}"


def _table(
    runs: Mapping[int, Scores], rows: Mapping[str, Sequence[Interval]], write: Callable[[Interval], str]
) -> str:
    """Write one table."""
    heads = ["method", *(f"seed {seed}" for seed in runs), *(["all seeds"] if len(runs) > 1 else [])]
    lines = [heads, *([method, *map(write, row)] for method, row in rows.items())]
    head, *body = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([head, "|---|" + "---:|" * (len(heads) - 1), *body])


def _level(interval: Interval) -> str:
    """Write a success rate."""
    return f"{interval.mean:.1f} ({interval.low:.1f} to {interval.high:.1f})"


def _change(interval: Interval) -> str:
    """Write a difference."""
    return f"{signed(interval.mean)} ({span(interval)})"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    runner.prepare()
    parser = argparse.ArgumentParser(prog="python -m tasks.pool", description=__doc__)
    parser.add_argument("env", metavar="ENV")
    parser.add_argument("projects", metavar="PROJECT", nargs="+", type=Path)
    parser.add_argument("--against", metavar="METHOD", default=BASELINE, help="what every method is compared with")
    asked = parser.parse_args(arguments)
    try:
        given = settings.load_all()
        projects = projects_by_seed(asked.projects, asked.env)
        runs = {seed: scores_of(project, asked.env, given) for seed, project in projects.items()}
        console.say(tables(runs, given.report.bootstrap, given.report.confidence, asked.against))
    except QlassError as error:
        return runner.report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
