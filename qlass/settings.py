"""What a section of settings is: one declaration per setting, read by the loader, by the library and by the docs.

A section is a pydantic model; the docstring below a field is its meaning, the annotation its allowed values and unit. The
library takes sections as they are, params.yaml holds all of their keys (`tasks.project.settings`), and
`python -m tasks.params` prints them.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Annotated, TypeAlias, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

from qlass.errors import SettingsError

T = TypeVar("T")


class Section(BaseModel):
    """Frozen and strict: nothing unknown, missing, mistyped, infinite or out of range."""

    model_config = ConfigDict(
        frozen=True, extra="forbid", strict=True, allow_inf_nan=False, use_attribute_docstrings=True
    )


def _each_once(values: tuple[T, ...]) -> tuple[T, ...]:
    if len(set(values)) != len(values):
        raise ValueError("a list that names each entry once")
    return values


Count: TypeAlias = Annotated[int, Field(ge=1)]
Natural: TypeAlias = Annotated[int, Field(ge=0)]
Tokens: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "tokens"})]
Tasks: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "tasks"})]
Actions: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "environment steps"})]
Updates: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "optimizer steps"})]
Depth: TypeAlias = Annotated[int, Field(ge=0, json_schema_extra={"unit": "environment steps"})]
Dimensions: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "dimensions"})]
Draws: TypeAlias = Annotated[int, Field(ge=0, json_schema_extra={"unit": "draws"})]
Episodes: TypeAlias = Annotated[int, Field(ge=0, json_schema_extra={"unit": "episodes"})]
HiddenUnits: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "hidden units"})]
Megabytes: TypeAlias = Annotated[int, Field(ge=0, json_schema_extra={"unit": "MiB"})]
Nodes: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "nodes"})]
Passes: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "passes"})]
Processes: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "processes"})]
Replies: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "replies"})]
Requests: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "requests"})]
Resamples: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "resamples"})]
Retries: TypeAlias = Annotated[int, Field(ge=0, json_schema_extra={"unit": "retries"})]
Rows: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "rows"})]
Slots: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "trees or episodes"})]
Trajectories: TypeAlias = Annotated[int, Field(ge=1, json_schema_extra={"unit": "trajectories"})]
Seconds: TypeAlias = Annotated[float, Field(gt=0, json_schema_extra={"unit": "seconds"})]
Positive: TypeAlias = Annotated[float, Field(gt=0)]
NonNegative: TypeAlias = Annotated[float, Field(ge=0)]
Fraction: TypeAlias = Annotated[float, Field(gt=0, lt=1)]
Share: TypeAlias = Annotated[float, Field(gt=0, le=1)]
Ratio: TypeAlias = Annotated[float, Field(ge=0, le=1)]
BelowOne: TypeAlias = Annotated[float, Field(ge=0, lt=1)]
Some: TypeAlias = Annotated[tuple[T, ...], Field(min_length=1), AfterValidator(_each_once)]
"""A list with at least one entry, each once."""


def first(items: Sequence[T], count: int | None, key: str, what: str) -> Sequence[T]:
    """Return the first items, as many as the setting `key` says; all for None.

    Raises:
        SettingsError: there are fewer; `what` says what they are.
    """
    if count is not None and count > len(items):
        raise SettingsError(
            f"params.yaml: {key}: found {count}; allowed: 1 to {len(items)} ({what}), or null for all of them; change it"
        )
    return items[:count]
