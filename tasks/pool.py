"""Pool the evaluations of several runs, for example of three seeds: `python -m tasks.pool ENV PROJECT PROJECT ...`.

Each PROJECT is a copy of this project in which the pipeline has run (with another `base.seed`, say, which gives other games,
another policy and another QNet). The tasks of all runs count as one sample; every method is compared with one method (SFT, or
`--against METHOD`) of the same run. It is no stage: it prints a table.
"""

from __future__ import annotations

import argparse
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from pathlib import Path

from qlass.envs import get_definition
from qlass.errors import DataError, QlassError
from qlass.evaluation import bootstrap_mean, mean_by_task, paired_bootstrap
from qlass.evaluation.metrics import success
from qlass.jsonl import iter_records
from qlass.records import Episode
from qlass.report.headline import signed, span
from qlass.report.paper import method_name, method_order
from qlass.report.results import BASELINE
from tasks.project import paths, settings
from tasks.running import runner

Scores = dict[str, dict[str, float]]
"""method -> task (of any split) -> success in percent, over its seeds."""


def scores_of(project: Path, env: str, given: settings.Settings) -> Scores:
    """Read the episodes of one run.

    Raises:
        DataError: an evaluation that params.yaml asks for is missing.
    """
    found: dict[str, list[Episode]] = defaultdict(list)
    for method in given.run.methods:
        for split in given.evaluate.of(get_definition(env).splits):
            path = project / paths.episodes(env, method, split)
            if not path.exists():
                raise DataError(f"{path}: no such file; run the pipeline in {project} first")
            for episode in iter_records(path, Episode):
                found[episode.method].append(episode)
    return {
        method: mean_by_task(episodes, lambda episode: 100 * success(episode)) for method, episodes in found.items()
    }


def pooled(runs: Iterable[Scores]) -> Scores:
    """Join runs; equal tasks of different runs stay apart."""
    joined: Scores = defaultdict(dict)
    for number, scores in enumerate(runs):
        for method, by_task in scores.items():
            joined[method] |= {f"{number}/{task}": value for task, value in by_task.items()}
    return dict(joined)


def table(runs: Sequence[Scores], resamples: int, confidence: float, against: str = BASELINE) -> str:
    """Write a Markdown table: success in percent of each run, of all together, and the difference to one method.

    Raises:
        DataError: the runs have different methods, or not that one (runs without SFT have no difference to it).
    """
    if len({frozenset(scores) for scores in runs}) != 1:
        raise DataError(f"the runs have different methods: {'; '.join(', '.join(sorted(scores)) for scores in runs)}")
    together = pooled(runs)
    if against not in together and against != BASELINE:
        raise DataError(f"--against: found {against!r}; allowed: {', '.join(sorted(together, key=method_order))}")
    numbered = [f"run {number}" for number in range(1, len(runs) + 1)]
    lines = [["method", *numbered, f"all, {confidence:.0%} interval", f"minus {method_name(against)}, paired"]]
    for method in sorted(together, key=method_order):
        each = (f"{sum(scores[method].values()) / len(scores[method]):.1f}" for scores in runs)
        values = list(together[method].values())
        mean = bootstrap_mean(values, resamples=resamples, confidence=confidence, seed=0)
        cells = [method, *each, f"{mean.mean:.1f} ({mean.low:.1f} to {mean.high:.1f})", ""]
        if against in together and method != against:
            gap = paired_bootstrap(
                together[method], together[against], resamples=resamples, confidence=confidence, seed=0
            )
            cells[-1] = f"{signed(gap.mean)} ({span(gap)})"
        lines.append(cells)
    head, *rows = (f"| {' | '.join(cells)} |" for cells in lines)
    return "\n".join([head, "|---|" + "---:|" * (len(runs) + 2), *rows])


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table; return the exit code."""
    runner.prepare()
    parser = argparse.ArgumentParser(prog="python -m tasks.pool", description=__doc__)
    parser.add_argument("env", metavar="ENV")
    parser.add_argument("projects", metavar="PROJECT", nargs="+", type=Path)
    parser.add_argument("--against", metavar="METHOD", default=BASELINE, help="what every method is compared with")
    asked = parser.parse_args(arguments)
    try:
        given = settings.load_all()
        runs = [scores_of(project, asked.env, given) for project in asked.projects]
        sys.stdout.write(table(runs, given.report.bootstrap, given.report.confidence, asked.against) + "\n")
    except QlassError as error:
        return runner.report(error)
    return 0


if __name__ == "__main__":
    sys.exit(main())
