"""Assignments of the methods, and value functions and policies whose answers are known."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from itertools import cycle
from typing import Any

from qlass.envs.core.base import EnvDefinition, TextEnv
from qlass.envs.corridor import optimal_q
from qlass.methods.base import Assignment, get_method
from qlass.policies.base import Propose, Proposed, Score
from qlass.policies.scripted import ScriptedPolicy, ScriptedValueFunction
from qlass.prompts import parse_reply
from qlass.records import Episode, History, TaskSpec
from qlass.search.driver import Routine
from tests.search.conftest import MAX_STEPS, CountedEnv, CountedPolicy

NewEnv = Callable[[], CountedEnv]
Run = Callable[..., list[Episode]]

GAMMA = 0.97
"""High enough that bringing the item (1.0) beats entering at once without it (0.5)."""

BEST_OF_N = ("best_of_n", "best_of_n_qnet", "best_of_n_likelihood")

DRAWN: dict[str, Any] = {"seeds": (0,), "temperature": 0.7}
SETTINGS: dict[str, dict[str, Any]] = {
    "greedy": {},
    "best_of_n": {**DRAWN, "rollouts": 3},
    "qlass": {**DRAWN, "proposals": 3},
    "qlass_adaptive": {
        **DRAWN, "proposals": 3, "prior": 0.0, "max_redraws": 0, "redraw_below": 0.0, "redraw_temperature": 1.0,
    },
    "qlass_perturbed": {**DRAWN, "proposals": 3, "paraphraser": None},
}  # fmt: skip
"""Of each method; the adaptive one adds nothing to QLASS."""


def start(
    corridor: EnvDefinition,
    spec: TaskSpec,
    method: str,
    *,
    row: str | None = None,
    number: int = 0,
    seed: int = 0,
    logprobs: bool = True,
    **changes: Any,
) -> Callable[[TextEnv], Routine[list[Episode]]]:
    """Return what `drive` starts: one assignment of a method, with some of its settings changed."""
    plan = get_method(method)
    settings = plan.settings(**SETTINGS[method] | changes)

    def begin(env: TextEnv) -> Routine[list[Episode]]:
        given = Assignment(env, corridor, spec, row or method, number, seed, logprobs=logprobs)
        return plan.routine(given, settings)

    return begin


def saying_its_task(corridor: EnvDefinition) -> EnvDefinition:
    """Return the corridor as an environment that says where its task stands: "Your task is to: TASK."."""

    def partition(observation: str) -> tuple[str, str, str]:
        before, mark, after = observation.partition("Your task is to: ")
        return (f"{before}{mark}", after.removesuffix("."), ".") if mark else (observation, "", "")

    return replace(corridor, partition_task=partition)


class CountedValue:
    """A value function that remembers what it scored."""

    def __init__(self, value: Callable[[History, str], float]) -> None:
        self._value = ScriptedValueFunction(value)
        self.scored = 0
        self.requests: list[Score] = []

    def score(self, requests: Sequence[Score]) -> list[tuple[float, ...]]:
        self.scored += sum(len(request.replies) for request in requests)
        self.requests.extend(requests)
        return self._value.score(requests)


class Likely:
    """A policy whose log probabilities come from the text: nonsense is unlikely."""

    def __init__(self, policy: CountedPolicy) -> None:
        self._policy = policy

    def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
        return [
            Proposed(
                tuple(replace(p, logprob=-float(p.tokens) if p.valid else -99.0) for p in answer.proposals),
                answer.prompt_tokens,
            )
            for answer in self._policy.propose(requests)
        ]


class Written:
    """A policy whose replies at a step are written down: actions and log probabilities of the first draw, the second, ..."""

    def __init__(self, corridor: EnvDefinition, *draws: dict[str, float]) -> None:
        self.asked: list[list[Propose]] = []
        """The requests of each step."""
        self._draws, self._normalise = draws, corridor.normalise_action

    def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
        (request,) = requests
        if not self.asked or self.asked[-1][-1].history != request.history:
            self.asked.append([])
        written = self._draws[len(self.asked[-1])]
        self.asked[-1].append(request)
        actions = cycle(written)
        policy = ScriptedPolicy(lambda history, rng: f"Action: {next(actions)}", self._normalise)
        (answer,) = policy.propose(requests)
        proposals = tuple(replace(proposal, logprob=written[proposal.action]) for proposal in answer.proposals)
        return [Proposed(proposals, answer.prompt_tokens)]


def optimal(spec: TaskSpec, corridor: EnvDefinition) -> CountedValue:
    """Return the optimal Q of one task as a value function."""

    def value(history: History, reply: str) -> float:
        texts = [*(message.content for message in history if message.role == "assistant"), reply]
        actions = [corridor.normalise_action(parse_reply(text)[1]) for text in texts]
        return optimal_q(spec, actions, GAMMA, MAX_STEPS)

    return CountedValue(value)


def actions_of(episode: Episode) -> list[str]:
    return [step.action for step in episode.steps]
