"""Stage `report`: one HTML page about everything, and its numbers as tables."""

from __future__ import annotations

import itertools
import tempfile
from collections.abc import Collection, Mapping
from pathlib import Path

from qlass.envs import get_definition
from qlass.jsonl import iter_records, write_records
from qlass.methods.base import get_method
from qlass.records import Episode
from qlass.report import EnvInputs, ReportInputs, ReportSettings, build_report
from qlass.seeds import derive_seed
from tasks.project import paths, settings
from tasks.running.runner import StageJob, run

DIFFERENCES = Path("docs/differences.md")
STAGES = ("explore", "label", "qnet")


def env_inputs(name: str, given: settings.Settings, folder: Path) -> EnvInputs:
    """Return the files of one environment; `folder` is for files that live as long as the report is built."""
    definition, run = get_definition(name), given.run
    splits = given.evaluate.of(definition.splits)
    episodes: dict[tuple[str, str], Path] = {}
    for row, split in itertools.product(run.methods, splits):
        found = by_method(row, paths.episodes(name, row, split), folder / name)
        episodes |= {(variant, split): path for variant, path in found.items()}
    measured = {row for (row, _), path in episodes.items() if path.exists()}
    return EnvInputs(
        name=name,
        label=definition.label_of(given.envs[name].options),
        categories=definition.categories,
        episodes=episodes,
        method_notes=notes(run, given.methods, measured),
        panels={split: paths.panel(name, split) for split in ("train", *splits)},
        trees=paths.trees(name),
        labels=paths.labels(name),
        policy_loss={policy: paths.loss("policy", name, policy) for policy in run.policies},
        qnet_loss=paths.loss("qnet", name),
        qnet_loss_words=qnet_loss_words(given.qnet.observation_loss),
        calibration=paths.table("calibration", name),
        siblings=paths.table("siblings", name),
        metrics={
            **{policy: paths.metrics("policy", name, policy) for policy in run.policies},
            **{stage: paths.metrics(stage, name) for stage in STAGES},
        },
        published=definition.published(given.envs[name].options),
    )


def qnet_loss_words(observation_loss: float) -> str:
    """Say what the QNet's loss consists of."""
    words = "squared error of Q-values"
    return f"{words} + {observation_loss:g} × cross-entropy of the observations" if observation_loss else words


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


def notes(run: settings.Run, given: settings.Methods, measured: Collection[str]) -> dict[str, str]:
    """Return a few words about the settings of each row, and about rows that could not be measured.

    Args:
        run: what the pipeline runs.
        given: the sections of the methods.
        measured: rows that have episodes; one by likelihood has none where the server gives no log probabilities.
    """
    found = dict.fromkeys(run.policies, "greedy")
    for name in run.searches:
        method = get_method(name)
        words = method.note(given[name])
        found |= {row: words[variant] for row, variant in zip(method.rows(name), ("", *method.variants), strict=True)}
        missing = [row for row in method.rows(name) if row not in measured and name in measured]
        if missing:
            found[name] += f"; not measured, for want of log probabilities: {', '.join(missing)}"
    return found


def facts(given: settings.Settings, on: Mapping[str, settings.Settings]) -> tuple[tuple[str, str], ...]:
    """Return what stands under the title: base model and seed, and what else decided who played and how.

    Args:
        given: the declared settings.
        on: those of each environment, its overrides merged in.
    """
    base, server = given.base, given.inference.server
    revision = "" if base.revision is None else f" at {base.revision[:12]}"
    found = [("base model", f"{base.source}{revision}"), ("seed", str(base.seed))]
    if server is not None:
        found.append(("policies played by", f"a server, model {server.model}"))
    for env, its in on.items():
        if its.evaluate.candidates != "generate":
            found.append((f"actions on {env}", "chosen from the environment's own list"))
    return tuple(found)


def main(job: StageJob) -> None:
    """Build the report."""
    given = job.settings
    on = {name: job.settings_on(name) for name in given.run.envs}
    seed = derive_seed(given.base.seed, "report")
    with tempfile.TemporaryDirectory() as folder:
        inputs = ReportInputs(
            out=paths.REPORT,
            envs=tuple(env_inputs(name, its, Path(folder)) for name, its in on.items()),
            facts=facts(given, on),
            differences=DIFFERENCES,
        )
        build_report(inputs, ReportSettings(**given.report.model_dump(), seed=seed))


if __name__ == "__main__":
    raise SystemExit(run(Path(__file__).stem, main))
