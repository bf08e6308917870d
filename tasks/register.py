"""Register policy and QNet of an environment as one model with a card: `python -m tasks.register [ENV ...]`.

The model `qlass-<env>` is a plain folder (policy/, qnet/, card.md). The first version is the champion. A later one plays
the dev panel, takes its place when it beats the champion there, and is the challenger otherwise. The test panels choose
nothing: their results are on the card. A model that is registered already is left alone, so this may run as often as
one likes. Unlike tracking it is strict, and what was interrupted goes on.
"""

from __future__ import annotations

import argparse
import logging
import shutil
from collections.abc import Sequence
from pathlib import Path

from qlass.errors import DataError, QlassError, StorageError
from qlass.jsonl import read_json, write_json
from tasks.experiments import card, store, tracking
from tasks.experiments.contest import judge
from tasks.experiments.registry import Registry, Version
from tasks.playing.dev import METHOD, Dev
from tasks.project import dvcfiles, paths
from tasks.project.settings import SFT, Settings, load_all
from tasks.running import console, resume, runner

logger = logging.getLogger(__name__)

MODEL = ("dvc.policy_md5", "dvc.qnet_md5")
"""Tags by which a model is known again; the other hashes say what its card was made from."""


def register(env: str, settings: Settings, root: Path) -> Version:
    """Register what now lies in `data/` for an environment, or return the version that already holds it.

    Args:
        env: the environment; the method qlass must have been evaluated on it.
        settings: params.yaml.
        root: the repository.

    Raises:
        DataError: `dvc.lock` lacks an output; there is nothing complete to register.
        StorageError: MLflow failed.
        QlassError: the champion or the new model could not be played.
    """
    hashes = _hashes(env, root)
    registry = Registry(f"qlass-{env}", settings.tracking.experiment, root)
    known = registry.find({name: hashes[name] for name in MODEL})
    if known is not None:
        logger.info("register=%s version=%s alias=%s new=0", known.name, known.version, known.alias)
        return known
    champion = registry.champion()
    dev = Dev.of(env, settings, root) if champion else None
    key = {**hashes, "champion": champion and champion.run_id, "dev": dev and dev.conditions}
    with resume.work_folder("register", key, root / paths.WORK) as folder:
        model = _copy_models(env, root, folder / "model")
        verdict = judge(env, model, registry, champion, dev, folder)
        text = card.text(env, settings, hashes, f"{verdict.alias} ({verdict.reason})", root)
        (model / "card.md").write_text(text, encoding="utf-8")
        tags = {**hashes, **card.lineage(settings, root), "comparison": verdict.reason}
        version = registry.add(model, verdict.alias, tags, text, verdict.success)
    logger.info(
        "register=%s version=%s alias=%s new=1 reason=%r", version.name, version.version, version.alias, verdict.reason
    )
    return version


def check(settings: Settings, root: Path) -> None:
    """Find out before a pipeline run what would keep its models from being registered after it.

    Raises:
        StorageError: MLflow's store is damaged, or something in it was deleted. A server that does not answer is none:
            it may be back by then.
    """
    for env in settings.run.envs:
        try:
            Registry(f"qlass-{env}", settings.tracking.experiment, root).check()
        except StorageError as error:
            uri = tracking.tracking_uri(root)
            if store.file_of(uri) or error.__cause__ is None:
                raise
            logger.warning("register=%s uri=%s error=%s; it is tried again after the stages", env, uri, error)


def _copy_models(env: str, root: Path, folder: Path) -> Path:
    """Copy policy and QNet into a folder, which is emptied before; return it."""
    shutil.rmtree(folder, ignore_errors=True)
    _copy_policy(root / paths.policy(env, SFT), folder)
    shutil.copytree(root / paths.qnet(env), folder / "qnet")
    return folder


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
    parts["dvc.episodes_md5"] = paths.episodes(env, METHOD, "").parent
    missing = [str(path) for path in parts.values() if str(path) not in recorded]
    if missing:
        raise DataError(
            f"{paths.DVC_LOCK}: no hash of {', '.join(missing)}; run `dvc repro` with qlass in run.searches"
        )
    return {name: recorded[str(path)] for name, path in parts.items()}


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
            console.say(f"{version.name} version {version.version} ({version.alias or 'no alias'})\n")
    except QlassError as error:
        return runner.report(error)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
