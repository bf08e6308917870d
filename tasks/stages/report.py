"""Stage `report`: one HTML page about everything, and its numbers as tables."""

from __future__ import annotations

import itertools
import tempfile
from pathlib import Path

from qlass.envs import get_definition
from qlass.jsonl import iter_records, write_records
from qlass.records import Episode
from qlass.report import EnvInputs, ReportInputs, ReportSettings, build_report
from qlass.seeds import derive_seed
from tasks.project import paths, settings
from tasks.running.runner import StageJob, run

DIFFERENCES = "docs/differences.md"
STAGES = ("sft", "explore", "label", "qnet")


def env_inputs(name: str, given: settings.Run, folder: Path) -> EnvInputs:
    """Return the files of one environment; `folder` is for files that live as long as the report is built."""
    definition = get_definition(name)
    episodes: dict[tuple[str, str], Path] = {}
    for method, split in itertools.product(given.methods, given.splits):
        found = by_method(method, paths.episodes(name, method, split), folder / name / split)
        episodes |= {(variant, split): path for variant, path in found.items()}
    return EnvInputs(
        name=name,
        label=definition.label,
        categories=definition.categories,
        episodes=episodes,
        panels={split: paths.panel(name, split) for split in ("train", *given.splits)},
        trees=paths.trees(name),
        labels=paths.labels(name),
        sft_loss=paths.loss("sft", name),
        qnet_loss=paths.loss("qnet", name),
        calibration=paths.table("calibration", name),
        siblings=paths.table("siblings", name),
        metrics={stage: paths.metrics(stage, name) for stage in STAGES},
    )


def by_method(method: str, path: Path, folder: Path) -> dict[str, Path]:
    """Return a file per method: Best-of-N has the episodes of several rules in one file, other files are as they are."""
    if not path.exists():
        return {method: path}
    found: dict[str, list[Episode]] = {}
    for episode in iter_records(path, Episode):
        found.setdefault(episode.method, []).append(episode)
    if found.keys() <= {method}:
        return {method: path}
    for name, episodes in found.items():
        write_records(folder / name / path.name, episodes, Episode)
    return {name: folder / name / path.name for name in found}


def notes(given: settings.Evaluate) -> dict[str, str]:
    """Return a few words about each method's settings."""
    seeds = f"{len(given.seeds)} seed{'s' if len(given.seeds) > 1 else ''}"
    rollouts = f"N = {given.rollouts}, temperature {given.temperature:g}, {seeds}"
    guided, adds = f"M = {given.proposals}, temperature {given.temperature:g}, {seeds}", given.adaptive
    return {
        "base": "greedy",
        "sft": "greedy",
        "best_of_n": f"{rollouts}; keeps the highest true reward (an oracle)",
        "best_of_n_qnet": f"{rollouts}; keeps the highest Q-value of the last action",
        "best_of_n_likelihood": f"{rollouts}; keeps the most likely",
        "qlass": guided,
        "qlass_adaptive": (
            f"{guided}; Q + {adds.prior:g} log p, and up to {adds.max_redraws} redraws where Q falls below "
            f"{adds.redraw_below:g} of its last value"
        ),
    }


def main(job: StageJob) -> None:
    """Build the report."""
    given = job.settings
    facts = (("base model", given.base.source), ("seed", str(given.base.seed)))
    seed = derive_seed(given.base.seed, "report")
    with tempfile.TemporaryDirectory() as folder:
        inputs = ReportInputs(
            out=paths.REPORT,
            envs=tuple(env_inputs(name, given.run, Path(folder)) for name in given.run.envs),
            facts=facts,
            method_notes=notes(given.evaluate),
            differences=DIFFERENCES,
        )
        build_report(inputs, ReportSettings(given.report.bootstrap, given.report.confidence, seed))


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
