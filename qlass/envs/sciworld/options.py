"""The options of `sciworld`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar, Literal

from pydantic import ConfigDict, Field, TypeAdapter

from qlass.envs.core.options import read_options


@dataclass(frozen=True, slots=True)
class Options:
    """What can be set under `envs.sciworld.options`.

    Attributes:
        pool: short (the ten types whose expert needs at most 12 actions) or full (the 24 of the paper).
        containers: open (as in ETO's and QLASS's prompts) or closed (the package's simplification `easy`).
        outcome: what an episode pays: the best score that it reached (as ETO and QLASS count), or the final one.
        lists: a JSON file with lists of [task, variation] by split; null for the package's blocks.
        java: a program or a Java home; null to look for one, see `qlass.envs.sciworld.java`.
        start_limit_s: how long the start of a Java virtual machine may take (seconds).
    """

    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid")

    pool: Literal["short", "full"] = "short"
    containers: Literal["open", "closed"] = "open"
    outcome: Literal["best", "final"] = "best"
    lists: str | None = None
    java: str | None = None
    start_limit_s: Annotated[float, Field(gt=0)] = 120.0

    @classmethod
    def of(cls, options: Mapping[str, Any]) -> Options:
        """Read the options of params.yaml.

        Raises:
            SettingsError: an option is unknown or has a value that is not allowed.
        """
        return read_options(_OPTIONS, options, "sciworld")


_OPTIONS = TypeAdapter(Options)
