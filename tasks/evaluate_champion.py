"""Evaluate the registered champion of an environment on its dev panel: `python -m tasks.evaluate_champion ENV`.

A check that what is registered still works; what it measures is kept with the version, and the next one is compared
with that. It is no stage: it writes no output, only an MLflow run with metrics and traces. An interrupted evaluation
goes on.
"""

from __future__ import annotations

import argparse
import logging
from collections.abc import Sequence
from pathlib import Path

from qlass.errors import DataError, QlassError
from tasks.experiments import tracking
from tasks.experiments.registry import Registry
from tasks.playing.dev import METHOD, Dev
from tasks.playing.episodes import measure
from tasks.project import paths, settings
from tasks.running import console, resume, runner

logger = logging.getLogger(__name__)


def evaluate_champion(env: str, given: settings.Settings, root: Path) -> dict[str, float]:
    """Return the metrics of the champion with method qlass, and log them in a run.

    Raises:
        DataError: there is no champion, or no dev panel.
        StorageError: MLflow failed.
    """
    registry = Registry(f"qlass-{env}", given.tracking.experiment, root)
    champion = registry.champion()
    if champion is None:
        raise DataError(f"{registry.name}: no version has the alias champion; run `python -m tasks.register {env}`")
    dev = Dev.of(env, given, root)
    if dev is None:
        raise DataError(
            f"{paths.panel(env, 'dev')}: no such panel; {env} has no split dev, so there is nothing to play"
        )
    tags = {"kind": "champion", "env": env, "split": "dev", "model": champion.name, "version": champion.version}
    tracker = tracking.open_run(f"champion {env}", given.tracking.experiment, tags=tags, root=root)
    status: tracking.Status = "FAILED"
    try:
        key = {"run": champion.run_id, **dev.conditions}
        with resume.work_folder("evaluate_champion", key, root / paths.WORK) as folder:
            episodes = dev.play(registry.files(champion, folder), folder, champion.tags)
            registry.keep_success(champion, dev.measured(episodes))
        metrics = measure(METHOD, episodes)
        tracker.metrics(metrics)
        tracker.episodes(episodes, given.tracking.max_traces)
        status = "FINISHED"
    finally:
        tracker.finish(status)
    return metrics


def main(arguments: Sequence[str] | None = None) -> int:
    """Evaluate and print; return the exit code."""
    runner.prepare()
    parser = argparse.ArgumentParser(prog="python -m tasks.evaluate_champion", description=__doc__)
    parser.add_argument("env", metavar="ENV")
    env = parser.parse_args(arguments).env
    try:
        given = settings.load_all()
        if env not in given.envs:
            raise DataError(f"environment {env!r} is not in params.yaml; allowed: {', '.join(given.envs)}")
        found = evaluate_champion(env, given, Path.cwd())
    except QlassError as error:
        return runner.report(error)
    console.say(
        f"{env} dev: mean reward {found['mean_reward']:.1f}, success {found['success_rate']:.1f} "
        f"({found['n_tasks']} tasks, {found['n_seeds']} seeds)\n"
    )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
