"""Panels: the ordered TaskSpecs of a split, with a content hash, so that two machines compare the same tasks.

A panel file is JSON: {"env", "split", "count", "sha256", "tasks": [TaskSpec, ...]}.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any

from qlass.envs.core.base import EnvDefinition
from qlass.errors import DataError, SettingsError
from qlass.jsonl import from_json, read_json, to_json, write_json
from qlass.records import TaskSpec


@dataclass(frozen=True, slots=True)
class Panel:
    """The tasks of a split, in order.

    Attributes:
        env: name of the environment.
        split: train, dev, test_seen or test_unseen.
        tasks: at least one; all of this env and split, no two alike.
    """

    env: str
    split: str
    tasks: tuple[TaskSpec, ...]

    @property
    def sha256(self) -> str:
        """Return the hash of the content; it does not depend on the machine or on the layout of a file."""
        content = {"env": self.env, "split": self.split, "tasks": [to_json(task) for task in self.tasks]}
        return hashlib.sha256(json.dumps(content, sort_keys=True).encode("ascii")).hexdigest()


def build_panel(definition: EnvDefinition, options: Mapping[str, Any], split: str, count: int, seed: int) -> Panel:
    """Take the first `count` tasks that an environment offers for a split.

    Raises:
        SettingsError: `count` is below 1.
        DataError: the environment offers fewer, or two alike, or tasks of another split.
    """
    where = f"panel {split} of {definition.name}"
    if count < 1:
        raise SettingsError(f"{where}: {count} tasks wanted, at least 1 is needed")
    panel = Panel(definition.name, split, tuple(islice(definition.panels(options, split, seed), count)))
    if len(panel.tasks) < count:
        raise DataError(f"{where}: {count} tasks wanted, the environment has {len(panel.tasks)}")
    _check(panel, where)
    return panel


def save_panel(path: Path, panel: Panel) -> None:
    """Write a panel file.

    Raises:
        StorageError: the file could not be written; the old one is intact.
    """
    write_json(
        path,
        {
            "env": panel.env,
            "split": panel.split,
            "count": len(panel.tasks),
            "sha256": panel.sha256,
            "tasks": [to_json(task) for task in panel.tasks],
        },
    )


def load_panel(path: Path) -> Panel:
    """Read a panel file and verify its hash.

    Raises:
        DataError: the file is absent, no panel, or its tasks are not those that the hash was made of.
    """
    content = read_json(path)
    if not isinstance(content, dict) or content.keys() != {"env", "split", "count", "sha256", "tasks"}:
        raise DataError(f"{path}: not a panel; expected the keys env, split, count, sha256 and tasks")
    if not isinstance(content["tasks"], list):
        raise DataError(f"{path}: tasks must be a list")
    try:
        tasks = tuple(from_json(TaskSpec, task) for task in content["tasks"])
    except DataError as error:
        raise DataError(f"{path}: {error}") from None
    panel = Panel(content["env"], content["split"], tasks)
    if (content["count"], content["sha256"]) != (len(panel.tasks), panel.sha256):
        raise DataError(
            f"{path}: {len(panel.tasks)} tasks with sha256 {panel.sha256}, but the file promises {content['count']} "
            f"with {content['sha256']}; it was edited or damaged, make it again"
        )
    _check(panel, str(path))
    return panel


def check_disjoint(panels: Iterable[Panel]) -> None:
    """Check that no task is in two panels of an environment, neither by its id nor by its content.

    Raises:
        DataError: names both panels and the task.
    """
    owners: dict[tuple[str, str], tuple[str, str]] = {}
    for panel in panels:
        for task in panel.tasks:
            for identity in ((panel.env, task.task_id), (panel.env, _content(task))):
                split, task_id = owners.setdefault(identity, (panel.split, task.task_id))
                if (split, task_id) != (panel.split, task.task_id):
                    raise DataError(
                        f"{panel.env}: {task.task_id} of {panel.split} is {task_id} of {split} too; "
                        "a test task must not be a training task"
                    )


def _check(panel: Panel, where: str) -> None:
    """Check that all tasks belong here and that no two are alike."""
    for task in panel.tasks:
        if (task.env, task.split) != (panel.env, panel.split):
            raise DataError(f"{where}: {task.task_id} belongs to split {task.split} of {task.env}")
    for what, values in (
        ("task_id", [task.task_id for task in panel.tasks]),
        ("key", [_content(task) for task in panel.tasks]),
    ):
        if len(set(values)) < len(values):
            twice = next(value for index, value in enumerate(values) if value in values[:index])
            raise DataError(f"{where}: two tasks have the {what} {twice}")


def _content(task: TaskSpec) -> str:
    """Return what makes a task this task: its category and its key."""
    return json.dumps([task.category, task.key], sort_keys=True)
