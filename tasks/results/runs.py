"""The episodes of one run, and what is measured of them."""

from __future__ import annotations

import dataclasses
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

from qlass.envs import get_definition
from qlass.envs.core.panels import load_panel
from qlass.errors import DataError
from qlass.evaluation import mean_by_task
from qlass.evaluation.metrics import PERCENT, outcome, success
from qlass.jsonl import iter_records
from qlass.records import Episode
from qlass.report.load import EpisodeTable
from tasks.project import paths, settings


@dataclass(frozen=True, slots=True)
class Measure:
    """What is measured of an episode.

    Attributes:
        title: over a table.
        value: of an episode, in [0, 1]; tables show it x 100.
    """

    title: str
    value: Callable[[Episode], float]

    def by_task(self, episodes: Iterable[Episode]) -> dict[str, float]:
        """Return task_id -> mean over the task's evaluation seeds, x 100."""
        return mean_by_task(episodes, lambda episode: PERCENT * self.value(episode))


MEASURES = {
    "reward": Measure("Mean outcome reward × 100", outcome),
    "success": Measure("Success in percent", success),
}


def episodes_of(project: Path, env: str, given: settings.Settings) -> EpisodeTable:
    """Read what a run has played on an environment, by (method, split).

    A task is named by the hash of its panel and its id: other seeds give other games the same ids.

    Args:
        project: the root of a project in which the pipeline has run.
        env: the environment.
        given: says which methods and splits there are.

    Raises:
        DataError: an evaluation that the settings ask for is missing, or a file is corrupt.
    """
    found: dict[tuple[str, str], list[Episode]] = defaultdict(list)
    for row in given.run.methods:
        for split in given.evaluate.of(get_definition(env).splits):
            path = project / paths.episodes(env, row, split)
            if not path.exists():
                raise DataError(f"{path}: no such file; run the pipeline in {project} first")
            panel = load_panel(project / paths.panel(env, split)).sha256
            for episode in iter_records(path, Episode):
                task_id = f"{panel}/{episode.task_id}"
                found[episode.method, split].append(dataclasses.replace(episode, task_id=task_id))
    return {key: tuple(episodes) for key, episodes in found.items()}
