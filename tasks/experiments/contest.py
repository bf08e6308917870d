"""Which version of a model is the champion: the one that is better on the dev panel, beyond what chance explains."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from qlass.errors import QlassError
from qlass.evaluation import paired_bootstrap
from qlass.seeds import derive_seed
from tasks.experiments.registry import Registry, Version
from tasks.playing.dev import Dev, training_tags
from tasks.project import paths
from tasks.running import resume


@dataclass(frozen=True, slots=True)
class Verdict:
    """What a new version becomes.

    Attributes:
        alias: champion or challenger.
        reason: shown on the card.
        success: what was measured of it on the dev panel; None where it did not have to play.
    """

    alias: str
    reason: str
    success: Mapping[str, Any] | None = None


def judge(
    env: str, model: Path, registry: Registry, champion: Version | None, dev: Dev | None, folder: Path
) -> Verdict:
    """Decide what a new model becomes; who has to play for that, plays.

    Args:
        env: the environment.
        model: the new model.
        registry: holds the champion.
        champion: None where there is none yet.
        dev: None where the environment has no such split.
        folder: what is finished lies there and is not done again.

    Raises:
        QlassError: the champion or the new model could not be played.
    """
    if champion is None:
        return Verdict("champion", "first version")
    if dev is None:
        return Verdict("challenger", f"{env} has no split dev to choose on; move the alias champion by hand")
    old = registry.success(champion)
    if old is None or old["conditions"] != resume.work_key(dev.conditions):
        old = _play_champion(dev, champion, registry, folder / "champion")
        registry.keep_success(champion, old)
    new = dev.measured(dev.play(model, folder / "new", training_tags(dev.settings)))
    return compare(dev, new, old, champion.version)


def compare(dev: Dev, new: Mapping[str, Any], old: Mapping[str, Any], version: str) -> Verdict:
    """Compare what was measured of a new model with that of the champion, which is `version`."""
    given = dev.settings
    gain = paired_bootstrap(
        new["success"],
        old["success"],
        resamples=given.report.bootstrap,
        confidence=given.report.confidence,
        seed=derive_seed(given.base.seed, "register"),
    )
    reason = (
        f"success on {len(new['success'])} dev tasks {100 * gain.mean:+.1f} against version {version}, "
        f"interval over {gain.over} {100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
    )
    return Verdict("champion" if gain.low > 0 else "challenger", reason, new)


def _play_champion(dev: Dev, champion: Version, registry: Registry, folder: Path) -> dict[str, Any]:
    """Measure the champion on the dev panel.

    Raises:
        QlassError: as it was raised, with what to do about a champion that cannot be played any more.
    """
    try:
        return dev.measured(dev.play(registry.files(champion, folder), folder, champion.tags))
    except QlassError as error:
        raise type(error)(
            f"{champion.name} version {champion.version}, the champion, on {paths.panel(dev.env, 'dev')}: {error}; "
            "if it cannot be played any more, delete the alias champion in MLflow and run `python -m tasks.register`"
        ) from error
