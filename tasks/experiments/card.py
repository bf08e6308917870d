"""The card of a registered model: what the two models are, where they come from, what was measured."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from qlass.envs import get_definition
from qlass.jsonl import read_json
from qlass.methods.base import get_method
from tasks.experiments.identity import identities
from tasks.playing.dev import training_tags
from tasks.project import paths
from tasks.project.settings import Settings


def lineage(settings: Settings, root: Path) -> dict[str, str]:
    """Return the origin of the base policy and how conversations become its tokens, as tags."""
    pointer = root / paths.BASE_POLICY / "pointer.json"
    found: dict[str, Any] = read_json(pointer) if pointer.exists() else {"source": settings.base.source}
    origin = {f"base.{name}": str(value) for name, value in found.items() if value is not None}
    return {**origin, **training_tags(settings)}


def text(env: str, settings: Settings, hashes: Mapping[str, str], reason: str, root: Path) -> str:
    """Return the card as Markdown.

    Args:
        env: the environment.
        settings: params.yaml.
        hashes: names of outputs and their DVC hashes.
        reason: the alias of the version, and why it has it.
        root: the repository.
    """
    rows = ["| split | tasks | mean reward | success rate | tokens per episode |", "|---|---|---|---|---|"]
    for split, found in read_json(root / paths.metrics("evaluate", env, "qlass")).items():
        shown = [found["mean_reward"], found["success_rate"], found["generated_tokens_per_episode"]]
        rows.append(f"| {split} | {found['n_tasks']} | {' | '.join(f'{value:.1f}' for value in shown)} |")
    names = {**lineage(settings, root), **hashes, **identities(root)}
    given = settings.on(env)
    qnet = {"own": "initialised from that policy", "policy": "a value head on that policy's trunk"}[given.qnet.trunk]
    server = given.inference.server
    played = [] if server is None else [f"* Measured with a policy behind a server, its model `{server.model}`."]
    return "\n".join(
        [
            f"# qlass-{env}",
            "",
            f"A policy and the QNet that guides it, for {get_definition(env).label_of(given.envs[env].options)}.",
            "",
            f"* `policy/`: behaviour cloning of `{settings.base.source}`; chat format `{settings.base.chat_format}`.",
            f"* `qnet/`: scores (history, action); {qnet}. The two belong together.",
            f"* Use: method `qlass`, {get_method('qlass').note(given.methods['qlass'])['']}.",
            f"* Alias: {reason}.",
            *played,
            "",
            *rows,
            "",
            *(f"* {name}: `{value}`" for name, value in sorted(names.items())),
            "",
        ]
    )
