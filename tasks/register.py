"""Register policy and QNet of an environment as one model with a card: `python -m tasks.register [ENV ...]`.

The model `qlass-<env>` is a plain folder (policy/, qnet/, card.md, success.json). The first version is the champion; a
later one takes its place when it beats the champion on the same tasks, else it is the challenger. Outputs that are
registered already are left alone, so this may run as often as one likes. Unlike tracking it is strict.
"""

from __future__ import annotations

import argparse
import itertools
import logging
import shutil
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qlass.envs import get_definition
from qlass.envs.core.panels import load_panel
from qlass.errors import DataError, QlassError
from qlass.evaluation import mean_by_task, metrics, paired_bootstrap
from qlass.jsonl import iter_records, read_json, write_json
from qlass.records import Episode
from qlass.seeds import derive_seed
from tasks.experiments import card
from tasks.experiments.registry import Registry, Version
from tasks.project import dvcfiles, paths
from tasks.project.settings import SFT, Settings, load_all
from tasks.running import runner

logger = logging.getLogger(__name__)


def register(env: str, settings: Settings, root: Path) -> Version:
    """Register what now lies in `data/` for an environment, or return the version that already holds it.

    Args:
        env: the environment; the method qlass must have been evaluated on it.
        settings: params.yaml.
        root: the repository.

    Raises:
        DataError: `dvc.lock` lacks an output; there is nothing complete to register.
        StorageError: MLflow failed.
    """
    hashes = _hashes(env, root)
    registry = Registry(f"qlass-{env}", settings.tracking.experiment, root)
    known = registry.find(hashes)
    if known is not None:
        logger.info("register=%s version=%s alias=%s new=0", known.name, known.version, known.alias)
        return known
    success = _success(env, settings, root)
    with tempfile.TemporaryDirectory() as temporary:
        old = registry.champion_files(Path(temporary), "success.json") if registry.champion() else None
        alias, reason = _alias(success, old, settings)
        folder = Path(temporary) / "new"
        _copy_policy(root / paths.policy(env, SFT), folder)
        shutil.copytree(root / paths.qnet(env), folder / "qnet")
        write_json(folder / "success.json", success)
        (folder / "card.md").write_text(card.text(env, settings, hashes, reason, root), encoding="utf-8")
        tags = {**hashes, **card.lineage(settings, root), "comparison": reason}
        version = registry.add(folder, alias, tags, (folder / "card.md").read_text(encoding="utf-8"))
    logger.info("register=%s version=%s alias=%s new=1 reason=%r", version.name, version.version, alias, reason)
    return version


def _copy_policy(policy: Path, folder: Path) -> None:
    """Copy a policy so that the folder is complete: an adapter brings the local model that it adapts."""
    shutil.copytree(policy, folder / "policy")
    pointer = policy / "pointer.json"
    if pointer.exists():
        base = policy / read_json(pointer)["source"]
        if base.is_dir():
            shutil.copytree(base, folder / "base")
            write_json(folder / "policy" / "pointer.json", {"source": "../base", "revision": None})


def _hashes(env: str, root: Path) -> dict[str, str]:
    """Return the DVC hashes that say which outputs these are, as tags."""
    recorded = dvcfiles.output_hashes(root)
    parts = {"dvc.policy_md5": paths.policy(env, SFT), "dvc.qnet_md5": paths.qnet(env)}
    parts["dvc.episodes_md5"] = paths.episodes(env, "qlass", "").parent
    missing = [str(path) for path in parts.values() if str(path) not in recorded]
    if missing:
        raise DataError(
            f"{paths.DVC_LOCK}: no hash of {', '.join(missing)}; run `dvc repro` with qlass in run.searches"
        )
    return {name: recorded[str(path)] for name, path in parts.items()}


def _success(env: str, settings: Settings, root: Path) -> dict[str, Any]:
    """Return success per task (mean over seeds) of all splits together, and the panels it was measured on."""
    panels = {
        split: load_panel(root / paths.panel(env, split)).sha256
        for split in settings.evaluate.of(get_definition(env).splits)
    }
    files = [root / paths.episodes(env, "qlass", split) for split in settings.evaluate.of(get_definition(env).splits)]
    episodes = itertools.chain.from_iterable(iter_records(file, Episode) for file in files)
    return {"panels": panels, "success": mean_by_task(episodes, metrics.success)}


def _alias(new: Mapping[str, Any], champion: Path | None, settings: Settings) -> tuple[str, str]:
    """Return the alias of a new version and the reason."""
    if champion is None:
        return "champion", "first version"
    old = read_json(champion)
    if old["panels"] != new["panels"]:
        return "challenger", "the champion was measured on other panels; see `python -m tasks.evaluate_champion`"
    gain = paired_bootstrap(
        new["success"],
        old["success"],
        resamples=settings.report.bootstrap,
        confidence=settings.report.confidence,
        seed=derive_seed(settings.base.seed, "register"),
    )
    reason = (
        f"success {100 * gain.mean:+.1f} against the champion, "
        f"interval over {gain.over} {100 * gain.low:+.1f} to {100 * gain.high:+.1f}"
    )
    return ("champion" if gain.low > 0 else "challenger"), reason


def main(arguments: Sequence[str] | None = None) -> int:
    """Register the given environments, all of `run.envs` by default; return the exit code."""
    runner.prepare()
    parser = argparse.ArgumentParser(prog="python -m tasks.register", description=__doc__)
    parser.add_argument("envs", nargs="*", metavar="ENV", help="default: all of run.envs")
    names = parser.parse_args(arguments).envs
    try:
        settings = load_all()
        for env in names or settings.run.envs:
            version = register(env, settings, Path.cwd())
            sys.stdout.write(f"{version.name} version {version.version} ({version.alias or 'no alias'})\n")
    except QlassError as error:
        return runner.report(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
