"""Stage 4: the evaluated methods. Each turns one TaskSpec into Episodes, as a routine for `drive`.

Only the chosen action is ever executed by `q_guided` (the released code executes every candidate and reads the true
reward of those that end the episode).
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from qlass.envs.core.base import EnvDefinition, TextEnv
from qlass.errors import EnvironmentFault, ReplayDivergence
from qlass.policies.base import Proposed, Score
from qlass.prompts import render_reply
from qlass.records import Cost, Episode, Proposal, Step, TaskSpec
from qlass.search.branch import Cursor, Sampling, spent, start, take
from qlass.search.driver import Routine

FAULTS = (EnvironmentFault, ReplayDivergence)
"""What an environment may raise in the middle of an episode: the task is lost, the panel is not."""


@dataclass(frozen=True, slots=True)
class Adaptive:
    """What `qlass_adaptive` adds to QLASS; the defaults add nothing.

    Attributes:
        prior: weight b of a reply's log probability (natural, summed over its tokens, at temperature 1); the reply with
            the highest Q + b log p is executed. That is the mode of p exp(Q / b), the policy that maximises the expected
            Q-value minus b times its KL divergence from the SFT policy.
        max_redraws: how often more replies are drawn at a step whose highest Q-value is too low.
        redraw_below: too low is less than this share of the highest Q-value of the step before.
        redraw_temperature: of the replies drawn then.
    """

    prior: float = 0.0
    max_redraws: int = 0
    redraw_below: float = 0.0
    redraw_temperature: float = 1.0


@dataclass(slots=True)
class _Rollout:
    """One trajectory while it is played."""

    observation: str
    cursor: Cursor
    steps: list[Step] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    candidates: list[tuple[tuple[str, float], ...]] = field(default_factory=list)
    logprob: float = 0.0
    tokens: int = 0

    def episode(self, spec: TaskSpec, method: str, seed: int, cost: Cost) -> Episode:
        """Record the trajectory as the Episode of a method."""
        return Episode(
            task_id=spec.task_id,
            category=spec.category,
            method=method,
            seed=seed,
            outcome=self.cursor.outcome,
            success=self.cursor.success,
            observation=self.observation,
            steps=tuple(self.steps),
            cost=cost,
            candidates=tuple(self.candidates),
        )


def failed(spec: TaskSpec, method: str, seed: int, fault: Exception, played: Sequence[_Rollout] = ()) -> Episode:
    """Record a task that could not be played to its end as a failure with its reason.

    What was spent is kept; so are the steps, where they are those of one trajectory.
    """
    one = played[0] if len(played) == 1 else None
    return Episode(
        task_id=spec.task_id,
        category=spec.category,
        method=method,
        seed=seed,
        outcome=0.0,
        success=False,
        observation=one.observation if one else "",
        steps=tuple(one.steps) if one else (),
        cost=sum((each.cost for each in played), Cost()),
        error=f"{type(fault).__name__}: {fault}",
        candidates=tuple(one.candidates) if one else (),
    )


def single(
    env: TextEnv, definition: EnvDefinition, spec: TaskSpec, sampling: Sampling, *, method: str, seed: int
) -> Routine[list[Episode]]:
    """Play one trajectory: the base and SFT rows (temperature 0)."""
    played: list[_Rollout] = []
    try:
        played.append(_Rollout(*start(env, definition, spec)))
        yield from _play(env, played, sampling)
    except FAULTS as fault:
        return [failed(spec, method, seed, fault, played)]
    return [played[0].episode(spec, method, seed, played[0].cost)]


def best_of_n(
    env: TextEnv, definition: EnvDefinition, spec: TaskSpec, sampling: Sampling, *, rollouts: int, seed: int
) -> Routine[list[Episode]]:
    """Play N trajectories and keep one, by three rules that share the N rollouts and their cost.

    Returns:
        `best_of_n` keeps the highest true reward (the paper's row, an oracle at test time), `best_of_n_qnet` the highest
        Q-value of the last action, `best_of_n_likelihood` the highest mean log probability per token.
    """
    methods = ("best_of_n", "best_of_n_qnet", "best_of_n_likelihood")
    played: list[_Rollout] = []
    try:
        observation, root = start(env, definition, spec)
        played.extend(_Rollout(observation, root) for _ in range(rollouts))
        yield from _play(env, played, sampling)
    except FAULTS as fault:
        return [failed(spec, method, seed, fault, played) for method in methods]
    values: list[tuple[float, ...]] = yield [
        Score(one.cursor.history[:-2], (one.cursor.history[-2].content,)) for one in played
    ]
    cost = sum((one.cost for one in played), Cost())
    by_reward = max(played, key=lambda one: one.cursor.outcome)
    by_value = max(zip(values, played, strict=True), key=lambda pair: pair[0][0])[1]
    by_likelihood = max(played, key=lambda one: one.logprob / max(one.tokens, 1))
    return [
        by_reward.episode(spec, methods[0], seed, cost),
        by_value.episode(spec, methods[1], seed, replace(cost, qnet_calls=cost.qnet_calls + rollouts)),
        by_likelihood.episode(spec, methods[2], seed, cost),
    ]


def q_guided(
    env: TextEnv,
    definition: EnvDefinition,
    spec: TaskSpec,
    sampling: Sampling,
    *,
    proposals: int,
    seed: int,
    adaptive: Adaptive | None = None,
) -> Routine[list[Episode]]:
    """Play one trajectory, at each step executing the proposal with the highest Q-value (method section 5).

    With `adaptive` it is the method `qlass_adaptive`, which is not in the paper.
    """
    method, adaptive = ("qlass_adaptive", adaptive) if adaptive else ("qlass", Adaptive())
    played: list[_Rollout] = []
    enough = -math.inf
    try:
        one = _Rollout(*start(env, definition, spec))
        played.append(one)
        while not one.cursor.ended:
            distinct, values = yield from _propose(one, sampling, proposals, adaptive, enough)
            if values:
                enough = adaptive.redraw_below * max(values)
            scores = [q + adaptive.prior * proposal.logprob for q, proposal in zip(values, distinct, strict=False)]
            chosen = distinct[max(range(len(scores)), key=scores.__getitem__, default=0)]
            taken = yield from take(env, [one.cursor], [chosen])
            _record(one, chosen, taken[0])
            pairs = zip(distinct, values, strict=False)  # a single proposal may be executed without a value
            one.candidates.append(tuple((proposal.action, round(value, 6)) for proposal, value in pairs))
    except FAULTS as fault:
        return [failed(spec, method, seed, fault, played)]
    return [one.episode(spec, method, seed, one.cost)]


def _propose(
    one: _Rollout, sampling: Sampling, count: int, adaptive: Adaptive, enough: float
) -> Routine[tuple[list[Proposal], list[float]]]:
    """Draw `count` replies, and again while the highest Q-value is below `enough`.

    Returns:
        The distinct proposals and their Q-values; no values where there is nothing to choose and nothing to redraw.
    """
    drawn: list[Proposal] = []
    values: list[float] = []
    for number in range(1 + adaptive.max_redraws):
        draw = replace(sampling, temperature=adaptive.redraw_temperature) if number else sampling
        requests = [draw.request(one.cursor, "guided", range(number * count, (number + 1) * count))]
        answers: list[Proposed] = yield requests
        one.cost += spent(answers[0].proposals, answers[0].prompt_tokens)
        drawn += answers[0].proposals
        distinct = _distinct(drawn)
        new = distinct[len(values) :]
        if new and (len(distinct) > 1 or adaptive.max_redraws):
            replies = tuple(render_reply(proposal.thought, proposal.action) for proposal in new)
            scored: list[tuple[float, ...]] = yield [Score(one.cursor.history, replies)]
            values += scored[0]
            one.cost += Cost(qnet_calls=len(new))
        if not values or max(values) >= enough:
            break
    return distinct, values


def _play(env: TextEnv, rollouts: Sequence[_Rollout], sampling: Sampling) -> Routine[None]:
    """Play trajectories of one task side by side to their ends."""
    while running := [(number, one) for number, one in enumerate(rollouts) if not one.cursor.ended]:
        requests = [sampling.request(one.cursor, f"rollout {number}", (0,)) for number, one in running]
        answers: list[Proposed] = yield requests
        chosen = [answer.proposals[0] for answer in answers]
        for (_, one), answer in zip(running, answers, strict=True):
            one.cost += spent(answer.proposals, answer.prompt_tokens)
        taken = yield from take(env, [one.cursor for _, one in running], chosen)
        for (_, one), proposal, result in zip(running, chosen, taken, strict=True):
            _record(one, proposal, result)


def _record(one: _Rollout, proposal: Proposal, taken: tuple[Step, Cursor]) -> None:
    step, one.cursor = taken
    one.steps.append(step)
    one.cost += Cost(env_steps=1)
    one.logprob += proposal.logprob
    one.tokens += proposal.tokens


def _distinct(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Keep the first proposal of each normalised action, in order."""
    first: dict[str, Proposal] = {}
    for proposal in proposals:
        first.setdefault(proposal.action, proposal)
    return list(first.values())
