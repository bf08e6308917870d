"""Problems in plain words, for models, dataclasses and the limits that they declare."""

import json
import math
from dataclasses import dataclass
from typing import Annotated, Any, Literal

import pytest
from pydantic import AfterValidator, BaseModel, ConfigDict, Field, TypeAdapter, ValidationError, model_validator

from qlass.validation import Problem, in_words, problems, show, unit_of


def each_once(values):
    if len(set(values)) != len(values):
        raise ValueError("a list that names each entry once")
    return values


@dataclass(frozen=True)
class Lora:
    __pydantic_config__ = ConfigDict(extra="forbid")

    r: Annotated[int, Field(ge=1)]
    share: Annotated[float, Field(ge=0, lt=1)]


@dataclass(frozen=True)
class Full:
    rank: int


class Settings(BaseModel):
    model_config = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    gamma: Annotated[float, Field(gt=0, le=1)]
    steps: Annotated[int, Field(ge=1)] | None
    backend: Literal["deepspeed", "torch"]
    stage: Literal[0, 1, None]
    slots: Annotated[int, Field(ge=1)] | Literal["auto"]
    seeds: Annotated[list[Annotated[int, Field(ge=0)]], Field(min_length=1), AfterValidator(each_once)]
    name: Annotated[str, Field(min_length=1)]
    lora: Lora | None
    shapes: list[Lora]
    server: Lora | list[int]
    sizes: list[int] | Literal["auto"]
    adapter: Lora | Full
    given: dict[str, Any]
    limits: dict[str, int]
    quick: bool

    @model_validator(mode="after")
    def _fit(self):
        if self.quick and self.stage == 1:
            raise ValueError("quick: false where stage is 1")
        return self


GOOD = {
    "gamma": 0.9, "steps": None, "backend": "torch", "stage": 0, "slots": "auto", "seeds": [0], "name": "x",
    "lora": None, "shapes": [], "server": [1], "sizes": "auto", "adapter": Full(1), "given": {}, "limits": {},
    "quick": True,
}  # fmt: skip
SETTINGS = TypeAdapter(Settings)
MISSING = object()
LORA_OR_NUMBERS = "a mapping with the keys r, share or a list, each a whole number"


def found_in(change):
    """Return the problems of GOOD after a change."""
    value = {name: entry for name, entry in (GOOD | change).items() if entry is not MISSING}
    with pytest.raises(ValidationError) as caught:
        SETTINGS.validate_python(value)
    return problems(caught.value, SETTINGS)


def test_the_good_one_is_good():
    SETTINGS.validate_python(GOOD)


@pytest.mark.parametrize(
    ("change", "where", "found", "expected"),
    [
        ({"gamma": 1.5}, "gamma", "1.5", "a number > 0 and <= 1"),
        ({"gamma": 0}, "gamma", "0", "a number > 0 and <= 1"),
        ({"gamma": math.nan}, "gamma", "nan", "a number > 0 and <= 1"),
        ({"gamma": True}, "gamma", "true", "a number > 0 and <= 1"),
        ({"gamma": "1e-3"}, "gamma", "'1e-3' (text)", "a number > 0 and <= 1"),
        ({"steps": 0}, "steps", "0", "a whole number >= 1 or null"),
        ({"steps": 2.0}, "steps", "2.0", "a whole number >= 1 or null"),
        ({"backend": "horovod"}, "backend", "'horovod' (text)", "one of deepspeed, torch"),
        ({"stage": 2}, "stage", "2", "one of 0, 1, null"),
        ({"slots": 0}, "slots", "0", "a whole number >= 1 or auto"),
        ({"slots": "many"}, "slots", "'many' (text)", "a whole number >= 1 or auto"),
        ({"seeds": []}, "seeds", "[]", "a list with at least one entry, each a whole number >= 0"),
        ({"seeds": 3}, "seeds", "3", "a list with at least one entry, each a whole number >= 0"),
        ({"seeds": [0, -1]}, "seeds[1]", "-1", "a whole number >= 0"),
        ({"seeds": [1, 1]}, "seeds", "[1, 1]", "a list that names each entry once"),
        ({"name": ""}, "name", "'' (text)", "text that is not empty"),
        ({"name": None}, "name", "null", "text that is not empty"),
        ({"lora": 8}, "lora", "8", "a mapping with the keys r, share or null"),
        ({"given": [1]}, "given", "[1]", "a mapping with text as keys"),
        ({"limits": {"a": 1, "b": "2"}}, "limits.b", "'2' (text)", "a whole number"),
        ({"limits": {1: 1}}, "limits", "1", "a mapping with text as keys, each value a whole number"),
        ({"quick": 1}, "quick", "1", "true or false"),
        ({"stage": 1}, "", show(GOOD | {"stage": 1}), "quick: false where stage is 1"),
    ],
)  # fmt: skip
def test_wrong_values(change, where, found, expected):
    assert found_in(change) == [Problem(where, found, expected, "wrong")]


def test_missing_fields():
    assert found_in({"gamma": MISSING, "slots": MISSING}) == [
        Problem("gamma", "nothing", "a number > 0 and <= 1", "missing"),
        Problem("slots", "nothing", "a whole number >= 1 or auto", "missing"),
    ]


def test_unknown_fields():
    names = "one of " + ", ".join(GOOD)
    assert found_in({"gama": 0.9, 3: None}) == [
        Problem("gama", "0.9", names, "unknown"),
        Problem("3", "3", names, "unknown"),
    ]


def test_inside_dataclasses_lists_and_optional_values():
    value = GOOD | {"adapter": {"rank": 1}, "lora": {"r": 0, "rank": 1}, "shapes": [{"r": 1, "share": 1}]}
    with pytest.raises(ValidationError) as caught:
        SETTINGS.validate_json(json.dumps(value))
    assert problems(caught.value, SETTINGS) == [
        Problem("lora.r", "0", "a whole number >= 1", "wrong"),
        Problem("lora.share", "nothing", "a number >= 0 and < 1", "missing"),
        Problem("lora.rank", "1", "one of r, share", "unknown"),
        Problem("shapes[0].share", "1", "a number >= 0 and < 1", "wrong"),
    ]


@pytest.mark.parametrize(
    ("name", "value", "expected"),
    [
        ("server", {"r": 1}, LORA_OR_NUMBERS),
        ("server", [1, "x"], LORA_OR_NUMBERS),
        ("sizes", [1, "x"], "a list, each a whole number or auto"),
        ("adapter", {}, "a mapping with the keys r, share or a mapping with the keys rank"),
    ],
)
def test_a_problem_in_an_alternative_is_a_problem_of_the_whole_value(name, value, expected):
    # As JSON: from Python, a strict dataclass takes its instances only.
    with pytest.raises(ValidationError) as caught:
        SETTINGS.validate_json(json.dumps(GOOD | {"adapter": {"rank": 1}, name: value}))
    assert problems(caught.value, SETTINGS) == [Problem(name, str(value), expected, "wrong")]


def test_as_a_sentence():
    assert (
        str(Problem("a[1].b", "0", "a whole number >= 1", "wrong")) == "a[1].b: found 0, expected a whole number >= 1"
    )
    assert str(Problem("", "[1]", "a mapping", "wrong")) == "found [1], expected a mapping"
    assert str(Problem("a", "nothing", "text", "missing")) == "a: missing, expected text"
    assert str(Problem("c", "1", "one of a, b", "unknown")) == "c: unknown, expected one of a, b"


@pytest.mark.parametrize(
    ("value", "text"),
    [(None, "null"), (True, "true"), (1.0, "1.0"), ("it's", '"it\'s" (text)'), ("x" * 99, f"'{'x' * 56}... (text)")],
)
def test_shown_values(value, text):
    assert show(value) == text


@pytest.mark.parametrize(
    ("kind", "words"),
    [
        (Any, "any value"),
        (Annotated[int, Field(ge=2_000_000, lt=3_000_000)], "a whole number >= 2000000 and < 3000000"),
        (Annotated[float, Field(gt=0.001)], "a number > 0.001"),
        (Literal[True, "x"], "one of true, x"),
        (tuple[int, str], "a list of 2 values"),
        (tuple[bool, ...], "a list, each true or false"),
        (dict[str, Any], "a mapping with text as keys"),
        (dict[str, Lora], "a mapping with text as keys, each value a mapping with the keys r, share"),
        (Lora, "a mapping with the keys r, share"),
    ],
)
def test_types_in_words(kind, words):
    schema = TypeAdapter(kind).json_schema()
    assert in_words(schema, schema.get("$defs", {})) == words


Steps = Annotated[int, Field(ge=1, json_schema_extra={"unit": "steps"})]


@pytest.mark.parametrize("kind", [Steps, Steps | None, dict[str, Steps], list[Steps | None], tuple[Steps, ...]])
def test_the_unit_of_a_number_wherever_it_stands(kind):
    assert unit_of(TypeAdapter(kind).json_schema(), {}) == "steps"


@pytest.mark.parametrize("kind", [int, Any, dict[str, Any], Lora, Literal["steps"], tuple[int, str]])
def test_what_has_no_unit(kind):
    schema = TypeAdapter(kind).json_schema()
    assert unit_of(schema, schema.get("$defs", {})) == ""
