"""A toy environment whose every part can be replaced, to see whether a wrong part is noticed."""

from dataclasses import replace

import pytest

from qlass.envs.core.base import EnvDefinition, TextEnv
from qlass.records import TaskSpec


class Counter(TextEnv):
    """Say "up" `goal` times. Obeys the contract."""

    def __init__(self, options):
        self.goal, self.count = 3, 0

    def info(self, *, valid=True, success=False, outcome=0.0):
        return {"admissible_actions": ("down", "up"), "valid": valid, "success": success, "outcome": outcome}

    def reset(self, spec, *, seed=0):
        self.goal, self.count = spec.key["goal"], 0
        return f"Count to {self.goal}.", self.info()

    def step(self, action):
        if action not in ("up", "down"):
            return "What?", 0.0, False, False, self.info(valid=False)
        self.count += 1 if action == "up" else -1
        over = self.count == self.goal
        return f"{self.count}", float(over), over, False, self.info(success=over, outcome=float(over))

    def snapshot(self):
        return self.count

    def restore(self, snapshot):
        self.count = snapshot

    def close(self):
        pass


class Expert:
    def __init__(self, spec, seed):
        pass

    def act(self, observation):
        return "I count.", "up"


def tasks(options, split, seed):
    return (TaskSpec(f"toy/{split}/{i}", "toy", split, "count", {"goal": 3 + i, "seed": seed}) for i in range(9))


TOY = EnvDefinition(
    name="toy",
    make=Counter,
    panels=tasks,
    make_expert=Expert,
    instruction="Count.",
    normalise_action=str.strip,
    label="toy",
    categories=("count",),
)


@pytest.fixture
def toy():
    """Return a function that makes the toy with other parts: fields of EnvDefinition, or methods of the engine."""

    def make(**parts):
        fields = {name: part for name, part in parts.items() if name in EnvDefinition.__slots__}
        methods = {name: part for name, part in parts.items() if name not in fields}
        return replace(TOY, **({"make": type("Engine", (Counter,), methods)} | fields))

    return make
