"""Corridor with policies and engines that remember what was asked of them."""

from __future__ import annotations

import random
from collections.abc import Callable, Sequence
from itertools import islice, pairwise
from typing import Any

import pytest

from qlass.envs import get_definition, make_env
from qlass.envs.core.base import EnvDefinition, Info, Snapshot, StepResult, TextEnv
from qlass.policies.base import Policy, Propose, Proposed
from qlass.policies.scripted import ScriptedPolicy
from qlass.records import Cost, History, TaskSpec, Trajectory

OPTIONS = {"length": 5, "rooms": 3}
MAX_STEPS = 12


class CountedEnv(TextEnv):
    """An engine that notes every reset and every executed action, and can be told to fail."""

    def __init__(self, env: TextEnv) -> None:
        self._env = env
        self.task_id = ""
        self.executed: list[str] = []
        self.faults: dict[tuple[str, int], Exception] = {}
        """(task_id, number of the step, 0 for reset) -> what is raised there."""

    def reset(self, spec: TaskSpec, *, seed: int = 0) -> tuple[str, Info]:
        self.task_id, self.executed = spec.task_id, []
        self._fail()
        return self._env.reset(spec, seed=seed)

    def step(self, action: str) -> StepResult:
        self.executed.append(action)
        self._fail()
        return self._env.step(action)

    def _fail(self) -> None:
        if fault := self.faults.get((self.task_id, len(self.executed))):
            raise fault

    def snapshot(self) -> Snapshot:
        return self._env.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        self._env.restore(snapshot)

    def close(self) -> None:
        self._env.close()


class CountedPolicy:
    """A policy that notes the batches it was asked, and what its answers cost."""

    def __init__(self, policy: Policy) -> None:
        self._policy = policy
        self.batches: list[list[Propose]] = []
        self.proposals = 0
        self.cost = Cost()

    def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
        answers = self._policy.propose(requests)
        self.batches.append(list(requests))
        for answer in answers:
            self.proposals += len(answer.proposals)
            tokens = sum(proposal.tokens for proposal in answer.proposals)
            self.cost += Cost(generated_tokens=tokens, prompt_tokens=answer.prompt_tokens, policy_calls=1)
        return answers


def wander(history: History, rng: random.Random) -> str:
    """Choose anything that the last view of a cell suggests, sometimes with a thought, sometimes nonsense."""
    seen = next(message.content for message in reversed(history) if "You are at" in message.content)
    choices = ["Action: go east", "Action: go west", "Thought: I walk.\nAction: Go East.", "who knows"]
    words = seen.replace(".", "").split()
    for this, following in pairwise(words):
        if following == "door":
            choices += [f"Action: enter {this} room"] * 2
        if following == "on":
            choices += [f"Thought: There it is.\nAction: take {this}"]
    return rng.choice(choices)


@pytest.fixture(scope="session")
def corridor() -> EnvDefinition:
    return get_definition("corridor")


@pytest.fixture
def wanderer(corridor: EnvDefinition) -> CountedPolicy:
    """A policy that walks about."""
    return CountedPolicy(ScriptedPolicy(wander, corridor.normalise_action))


@pytest.fixture
def new_env(corridor: EnvDefinition) -> Callable[[], CountedEnv]:
    """Return a function that makes engines with the step limit."""
    return lambda: CountedEnv(make_env(corridor, OPTIONS, MAX_STEPS))


@pytest.fixture(scope="session")
def specs(corridor: EnvDefinition) -> list[TaskSpec]:
    """Training tasks, categories in turn."""
    return list(islice(corridor.panels(OPTIONS, "train", 0), 24))


@pytest.fixture(scope="session")
def experts(corridor: EnvDefinition, specs: list[TaskSpec]) -> list[Trajectory]:
    """What the expert does on each of them."""
    from tasks.playing.demonstrate import play

    env = make_env(corridor, OPTIONS, MAX_STEPS)
    return [play(env, corridor, spec, seed=0, thoughts=True) for spec in specs]


@pytest.fixture
def run() -> Callable[..., Any]:
    """Return a function that plays one routine alone."""
    from tests.engines import drive

    def play(start: Callable[[TextEnv], Any], env: TextEnv, policy: Policy, value: Any = None) -> Any:
        ((_, result),) = drive([start], [env], policy, value)
        return result

    return play
