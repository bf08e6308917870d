"""Files that are found by their name: the rule is that a value in params.yaml names the file that implements it."""

from __future__ import annotations

import pkgutil
from collections.abc import Sequence
from importlib import import_module
from importlib.util import find_spec
from typing import Any

from qlass.errors import SettingsError


def names(package: str) -> tuple[str, ...]:
    """Return the modules and packages inside a package, sorted; none of them is imported."""
    spec = find_spec(package)
    places = spec.submodule_search_locations if spec is not None else None
    return tuple(sorted(module.name for module in pkgutil.iter_modules(places)))


def load(package: str, name: str, allowed: Sequence[str], attribute: str) -> Any:
    """Import a module of a package and return its attribute.

    Args:
        package: dotted name.
        name: of the module.
        allowed: the names that may be asked for.
        attribute: what every such module has.

    Raises:
        SettingsError: no such module is there.
    """
    if name not in allowed:
        folder = package.replace(".", "/")
        raise SettingsError(
            f"{name!r} is no file of {folder}/; allowed: {', '.join(allowed)}; choose one of these or add {folder}/{name}.py"
        )
    return getattr(import_module(f"{package}.{name}"), attribute)
