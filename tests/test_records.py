"""The records are plain dataclasses for the code that makes them, whatever it takes to read them."""

import copy
import dataclasses

import pytest

from qlass import records
from qlass.records import Cost, Record, Step

KINDS = [
    kind for kind in vars(records).values() if dataclasses.is_dataclass(kind) and kind.__module__ == "qlass.records"
]


@pytest.mark.parametrize("kind", KINDS)
def test_a_record_is_frozen_and_has_slots(kind):
    assert issubclass(kind, Record)
    assert kind.__dataclass_params__.frozen
    assert kind.__slots__ == tuple(field.name for field in dataclasses.fields(kind))
    assert "__dict__" not in dir(kind)


def test_positions_keywords_and_defaults():
    step = Step("", "go", "You go.", 0.5, terminated=True, truncated=False)
    assert step == Step("", "go", "You go.", 0.5, True, False, True)
    assert Cost(1, env_steps=2) + Cost() == Cost(1, 0, 0, 0, 2)


def test_equality_hash_and_copies():
    step = Step("", "go", "You go.", 0.5, True, False)
    other = dataclasses.replace(step, reward=0.0)
    assert other != step
    assert {step, other, dataclasses.replace(other, reward=0.5)} == {step, other}
    assert copy.deepcopy(step) == step
    with pytest.raises(dataclasses.FrozenInstanceError):
        step.reward = 1.0
