"""Environments by name: the folders of `qlass/envs/`, and those that installed packages offer.

A package offers an environment as an entry point of the group `qlass.envs`: name = `module:EnvDefinition`.
"""

from __future__ import annotations

from collections.abc import Mapping
from importlib.metadata import EntryPoint, entry_points
from typing import Any

from qlass.envs.core.base import EnvDefinition, TextEnv
from qlass.envs.core.time_limit import TimeLimit
from qlass.errors import EnvironmentFault, SettingsError
from qlass.plugins import names

GROUP = "qlass.envs"


def available() -> dict[str, EntryPoint]:
    """Return all environments by name, nothing of them imported yet.

    Raises:
        SettingsError: two installed packages, or a package and ourselves, use one name for different things.
    """
    ours = (name for name in names(GROUP) if name != "core")
    found = {name: EntryPoint(name, f"{GROUP}.{name}:DEFINITION", GROUP) for name in ours}
    for point in entry_points(group=GROUP):
        known = found.setdefault(point.name, point)
        if known.value != point.value:
            raise SettingsError(
                f"environment {point.name!r} is offered twice: {known.value} and {point.value}; uninstall one of them"
            )
    return found


def get_definition(name: str) -> EnvDefinition:
    """Import and return an environment's definition.

    Args:
        name: the key under `envs` in params.yaml.

    Raises:
        SettingsError: no environment has this name.
        DependencyNotInstalled: from the environment's own module, where an extra is missing.
        EnvironmentFault: the entry point cannot be imported or is no EnvDefinition of this name.
    """
    points = available()
    if name not in points:
        raise SettingsError(
            f"environment {name!r} is unknown; allowed: {', '.join(sorted(points))}; choose one of these, add the folder "
            f"qlass/envs/{name}, or install the package that offers it (entry points of the group {GROUP})"
        )
    try:
        definition = points[name].load()
    except (ImportError, AttributeError) as error:
        raise EnvironmentFault(f"environment {name!r}: {points[name].value} cannot be imported: {error}") from error
    if not isinstance(definition, EnvDefinition) or definition.name != name:
        raise EnvironmentFault(f"environment {name!r}: {points[name].value} is not an EnvDefinition of that name")
    return definition


def make_env(definition: EnvDefinition, options: Mapping[str, Any], max_steps: int) -> TextEnv:
    """Build an engine from the environment's options, with its step limit."""
    return TimeLimit(definition.make(options), max_steps)
