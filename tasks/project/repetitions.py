"""Which runs repeat one experiment: those whose settings are the same, but for the seed.

Those that are compared may also differ in what was played; those that are kept as the results of a preset may not.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from qlass.errors import DataError, SettingsError
from tasks.project import paths, settings

MAY_DIFFER = ("base.seed", "run", "inference", "report", *settings.OPEN_KEYS)
"""Settings in which repetitions may differ: the seed, what was played, and what changes no result beyond rounding."""

KEPT_MAY_DIFFER = ("base.seed", *settings.OPEN_KEYS)
"""Settings in which a run may differ from its preset: the seed, and what changes no result at all."""


def projects_by_seed(projects: Sequence[Path], env: str) -> dict[int, Path]:
    """Return the projects by `base.seed`, in their order, if they repeat one experiment on an environment.

    Raises:
        DataError: a folder is no project.
        SettingsError: two projects have the same seed, or differ in a setting that changes results.
    """
    found = _by_seed(projects)
    for project in projects:
        _check_repetition(projects[0] / paths.PARAMS, project / paths.PARAMS, env)
    return found


def projects_of_preset(projects: Sequence[Path], preset: Path) -> dict[int, Path]:
    """Return the projects by `base.seed`, in the order of the seeds, if each has the settings of a preset.

    Raises:
        DataError: a folder is no project.
        SettingsError: two projects have the same seed, or one differs from the preset in more than KEPT_MAY_DIFFER.
    """
    found = dict(sorted(_by_seed(projects).items()))
    wanted = settings.load_all(preset).model_dump()
    for project in found.values():
        path = project / paths.PARAMS
        given = settings.load_all(path).model_dump()
        wrong = [
            f"{key} is {there!r} instead of {expected!r}"
            for key, expected, there in _differences(wanted, given)
            if not _may_differ(key, KEPT_MAY_DIFFER)
        ]
        if wrong:
            raise SettingsError(
                f"{path}: not the settings of {preset}: {'; '.join(wrong)}; allowed: those of the preset but for "
                f"{', '.join(KEPT_MAY_DIFFER)}; run the preset itself, or name the one that ran"
            )
    return found


def _by_seed(projects: Sequence[Path]) -> dict[int, Path]:
    """Return the projects by `base.seed`, in their order."""
    found: dict[int, Path] = {}
    for project in projects:
        path = project / paths.PARAMS
        if not path.exists():
            raise DataError(f"{path}: no such file; name the root of a project in which the pipeline has run")
        seed = settings.load_all(path).base.seed
        if seed in found:
            raise SettingsError(
                f"{path}: base.seed: found {seed}, as in {found[seed] / paths.PARAMS}; allowed: a seed of its own; "
                "name each run once"
            )
        found[seed] = project
    return found


def _check_repetition(first: Path, other: Path, env: str) -> None:
    """Check that two runs have the same settings where they must."""
    one, two = (settings.load_all(path).model_dump() for path in (first, other))
    for given in (one, two):
        given["envs"] = {env: given["envs"].get(env)}  # other environments do not matter
    for key, expected, found in _differences(one, two):
        if not _may_differ(key, MAY_DIFFER):
            raise SettingsError(
                f"{other}: {key}: found {found!r}; allowed: {expected!r}, as in {first}; "
                "runs that repeat one experiment differ in base.seed only"
            )


def _may_differ(key: str, allowed: Sequence[str]) -> bool:
    """Say whether a dotted key is one of the allowed ones or lies below one."""
    return f"{key}.".startswith(tuple(f"{name}." for name in allowed))


def _differences(one: Any, two: Any, key: str = "") -> Iterator[tuple[str, Any, Any]]:
    """Yield the dotted keys at which two mappings differ, with both values."""
    if isinstance(one, dict) and isinstance(two, dict):
        for name in sorted(one.keys() | two.keys()):
            yield from _differences(one.get(name), two.get(name), f"{key}.{name}" if key else name)
    elif one != two:
        yield key, one, two
