"""Compare methods over the runs of several seeds: `python -m tasks.pool ENV PROJECT PROJECT ...`.

Each PROJECT is a copy of this project in which the pipeline has run with another `base.seed`, which gives other games,
another policy and another QNet. Two tables are printed: the mean outcome reward of every method (or its success,
`--measure success`), and its difference to one of them (SFT, or `--against METHOD`) on the same tasks of the same run.
They show each seed, with an interval over its tasks, and all together, with an interval over tasks and runs. The tasks
are those of all test splits. It is no stage; `python -m tasks.publish` keeps such tables.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from qlass.errors import DataError, QlassError
from qlass.evaluation import Interval, interval_over_runs, paired_differences
from qlass.report.paper import in_order, method_name
from qlass.report.results import BASELINE, group, splits_of
from tasks.project import settings
from tasks.project.repetitions import projects_by_seed
from tasks.results.runs import MEASURES, episodes_of
from tasks.results.tables import change, interval_words, level, seed_heads, table
from tasks.running import console, runner

Scores = dict[str, dict[str, float]]
"""method -> task -> what is measured, x 100, over the evaluation seeds."""


def scores_of(project: Path, env: str, given: settings.Settings, measure: str = "reward") -> Scores:
    """Read what one run reached on the tasks of its test splits; of the dev split where it played no other.

    Raises:
        DataError: an evaluation that params.yaml asks for is missing.
    """
    groups = group(episodes_of(project, env, given))
    last = splits_of(groups)[-1]
    return {
        method: MEASURES[measure].by_task(episodes) for (split, method), episodes in groups.items() if split == last
    }


def tables(
    runs: Mapping[int, Scores], resamples: int, confidence: float, against: str = BASELINE, measure: str = "reward"
) -> str:
    """Write two Markdown tables: what is measured, and the difference to one method; each seed, then all together.

    Args:
        runs: by seed.
        resamples: of every interval.
        confidence: of every interval, in (0, 1).
        against: the method that is subtracted; without SFT, there is no second table by default.
        measure: what the numbers are.

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

    heads = ["method", *seed_heads(runs)]
    levels = {name: row([scores[name] for scores in runs.values()]) for name in methods}
    parts = [
        f"{MEASURES[measure].title} ({interval_words(confidence, levels[methods[0]])}):",
        table(heads, ([name, *map(level, found)] for name, found in levels.items())),
    ]
    gaps = {
        name: row([paired_differences(scores[name], scores[against]) for scores in runs.values()])
        for name in methods
        if against in methods and name != against
    }
    if gaps:
        title = f"Minus {method_name(against)} on the same tasks of the same seed, in points (paired, same intervals):"
        parts += [title, table(heads, ([name, *map(change, found)] for name, found in gaps.items()))]
    return "\n\n".join(parts) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the tables; return the exit code."""
    runner.prepare()
    parser = argparse.ArgumentParser(prog="python -m tasks.pool", description=__doc__)
    parser.add_argument("env", metavar="ENV")
    parser.add_argument("projects", metavar="PROJECT", nargs="+", type=Path)
    parser.add_argument("--against", metavar="METHOD", default=BASELINE, help="what every method is compared with")
    parser.add_argument("--measure", choices=list(MEASURES), default="reward", help="what the numbers are")
    asked = parser.parse_args(arguments)
    try:
        given = settings.load_all()
        projects = projects_by_seed(asked.projects, asked.env)
        runs = {seed: scores_of(project, asked.env, given, asked.measure) for seed, project in projects.items()}
        console.say(tables(runs, given.report.bootstrap, given.report.confidence, asked.against, asked.measure))
    except QlassError as error:
        return runner.report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
