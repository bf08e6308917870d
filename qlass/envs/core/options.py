"""Options of environments: what stands under `envs.<env>.options`, as the dataclass that the environment declares."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any, TypeVar

from pydantic import TypeAdapter, ValidationError

from qlass.errors import SettingsError
from qlass.validation import problems

T = TypeVar("T")


def read_options(adapter: TypeAdapter[T], options: Mapping[str, Any], env: str) -> T:
    """Read the options of params.yaml.

    Args:
        adapter: of the type that declares them.
        options: JSON values.
        env: name of the environment, for errors.

    Raises:
        SettingsError: an option is unknown or has a value that is not allowed.
    """
    try:
        return adapter.validate_json(json.dumps(dict(options)))
    except ValidationError as error:
        raise SettingsError(f"{env} options: {problems(error, adapter)[0]}") from None
