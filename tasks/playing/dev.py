"""How well a registered model plays the dev panel: what champions are chosen by, so that the test panels only report."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

from qlass.envs import get_definition
from qlass.envs.core.panels import Panel, load_panel
from qlass.evaluation import mean_by_task, metrics
from qlass.records import Episode
from tasks.playing.episodes import EvaluationSetup, play_all, searching
from tasks.playing.rollouts import EnvSpec
from tasks.project import dvcfiles, paths, settings
from tasks.project.settings import SFT, Settings
from tasks.running import resume
from tasks.running.shards import Crew

METHOD = "qlass"

_TRAINED_WITH = {"chat_format": str, "max_length": int, "max_new_tokens": int}
"""Settings in `base` that a model is bound to, since it was trained with them."""


@dataclass(frozen=True, slots=True)
class Dev:
    """The dev panel of an environment, and how a model plays it.

    Attributes:
        env: the environment.
        panel: its dev panel.
        settings: of params.yaml.
        conditions: all that success depends on beside the model (panel, settings, code), as JSON values.
    """

    env: str
    panel: Panel
    settings: Settings
    conditions: Mapping[str, Any]

    @classmethod
    def of(cls, env: str, given: Settings, root: Path) -> Self | None:
        """Return the dev panel of an environment, None for one that has no such split.

        Raises:
            DataError: the panel is not there or damaged.
        """
        if "dev" not in get_definition(env).splits:
            return None
        panel = load_panel(root / paths.panel(env, "dev"))
        return cls(env, panel, given, {"panel": panel.sha256, **_declared(env, root)})

    def play(self, model: Path, folder: Path, tags: Mapping[str, str]) -> list[Episode]:
        """Play the panel with method qlass.

        Args:
            model: a folder with policy/ and qnet/.
            folder: what is finished lies there and is not done again.
            tags: `training_tags` of the model; a version that is older than these has none.
        """
        size, crew = self.settings.evaluate.shard_size, Crew.of(self.settings.base)
        return play_all(self.setup(model, tags), self.panel.tasks, folder, shard_size=size, crew=crew)

    def setup(self, model: Path, tags: Mapping[str, str]) -> EvaluationSetup:
        """Return what a worker process needs to play; arguments as in `play`."""
        known: dict[str, Any] = {**training_tags(self.settings), **tags}
        trained = {name: kind(known[f"base.{name}"]) for name, kind in _TRAINED_WITH.items()}
        here = self.settings.on(self.env)
        given = here.model_copy(
            update={
                "base": here.base.model_copy(update=trained),
                # A server offers the policy of `data/`, which can be another one.
                "inference": here.inference.model_copy(update={"server": None}),
            }
        )
        environment = EnvSpec.of(self.env, given.envs[self.env])
        return searching(given, environment, METHOD, model / "policy", model / "qnet")

    def measured(self, episodes: Sequence[Episode]) -> dict[str, Any]:
        """Return success per task (mean over seeds); what has equal `conditions` can be compared."""
        success = mean_by_task(episodes, metrics.success)
        return {"panel": self.panel.sha256, "conditions": resume.work_key(self.conditions), "success": success}


def training_tags(given: Settings) -> dict[str, str]:
    """Return the settings that a model is bound to, since it was trained with them."""
    return {f"base.{name}": str(getattr(given.base, name)) for name in _TRAINED_WITH}


def _declared(env: str, root: Path) -> dict[str, Any]:
    """Return settings and code by which the stage `search` plays the method on the test panels, as `dvc.yaml` declares."""
    cell = dvcfiles.cell("search", {"env": env, "method": METHOD}, root)
    models = (paths.BASE_POLICY, paths.policy(env, SFT), paths.qnet(env))
    replaced = {str(path) for path in (*models, paths.panel(env, "dev").parent)}
    declared = settings.declared(cell, root / paths.PARAMS)
    return {
        "params": {key: value for key, value in declared.items() if key.removeprefix("base.") not in _TRAINED_WITH},
        "deps": resume.inputs([dep for dep in cell.deps if dep not in replaced], root),
    }
