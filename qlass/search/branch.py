"""One branch of interaction: where it stands, and how it takes a step."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import Any, Literal, TypeVar

from qlass.envs.core.base import EnvDefinition, Snapshot, TextEnv
from qlass.errors import SettingsError
from qlass.policies.base import Propose
from qlass.prompts import history_of
from qlass.records import Cost, History, Proposal, Step, TaskSpec
from qlass.search.driver import Act, Acted, Request, Routine
from qlass.seeds import derive_seed

Candidates = Literal["generate", "admissible"]
Result = TypeVar("Result")


@dataclass(frozen=True, slots=True)
class Cursor:
    """A state of an episode.

    Attributes:
        history: the messages so far.
        state: the environment's snapshot.
        admissible: what the environment would execute, where it says so.
        depth: actions from the root.
        ended: terminated or truncated.
        outcome: what the episode pays if it ends here; where it has ended, the reward of the last step.
        success: the environment's predicate after the last step.
    """

    history: History
    state: Snapshot
    admissible: tuple[str, ...]
    depth: int = 0
    ended: bool = False
    outcome: float = 0.0
    success: bool = False


@dataclass(frozen=True, slots=True)
class Sampling:
    """How replies are drawn.

    Attributes:
        temperature: 0 for greedy.
        seed: root of all seeds of this task.
        candidates: generate freely, or choose among the environment's admissible actions.
    """

    temperature: float
    seed: int
    candidates: Candidates = "generate"

    def request(self, cursor: Cursor, path: str, draws: Sequence[int]) -> Propose:
        """Ask for replies at a cursor; `path` names the cursor inside the task, `draws` number the replies."""
        seeds = tuple(derive_seed(self.seed, path, cursor.depth, draw) for draw in draws)
        if self.candidates == "admissible" and not cursor.admissible:
            raise SettingsError(
                "candidates: found 'admissible', but the environment did not say which actions are admissible; "
                "set its option `admissible: true`, or candidates: generate"
            )
        admissible = cursor.admissible if self.candidates == "admissible" else ()
        return Propose(cursor.history, seeds, self.temperature, admissible)


def start(env: TextEnv, definition: EnvDefinition, spec: TaskSpec) -> tuple[str, Cursor]:
    """Reset the environment to a task; return the first observation and the root cursor."""
    observation, info = env.reset(spec)
    history = history_of(definition.instruction, observation, ())
    return observation, Cursor(history, env.snapshot(), tuple(info["admissible_actions"]), outcome=info["outcome"])


def step_of(proposal: Proposal, answer: Acted) -> Step:
    """Record an executed proposal."""
    return Step(
        thought=proposal.thought,
        action=proposal.action,
        observation=answer.observation,
        reward=answer.reward,
        terminated=answer.terminated,
        truncated=answer.truncated,
        valid=proposal.valid and answer.info["valid"],
    )


def moved(cursor: Cursor, step: Step, answer: Acted) -> Cursor:
    """Return the cursor after a step."""
    messages = history_of("", "", (step,))[2:]
    return replace(
        cursor,
        history=(*cursor.history, *messages),
        state=answer.state,
        admissible=tuple(answer.info["admissible_actions"]),
        depth=cursor.depth + 1,
        ended=step.terminated or step.truncated,
        outcome=answer.info["outcome"],
        success=answer.info["success"],
    )


def take(env: TextEnv, cursors: Sequence[Cursor], proposals: Sequence[Proposal]) -> Routine[list[tuple[Step, Cursor]]]:
    """Execute one proposal at each cursor."""
    if not cursors:
        return []
    answers: list[Acted] = yield [
        Act(env, cursor.state, proposal.action) for cursor, proposal in zip(cursors, proposals, strict=True)
    ]
    steps = [step_of(proposal, answer) for proposal, answer in zip(proposals, answers, strict=True)]
    return [(step, moved(cursor, step, answer)) for cursor, step, answer in zip(cursors, steps, answers, strict=True)]


def spent(proposals: Sequence[Proposal], prompt_tokens: int) -> Cost:
    """Return the cost of one answered `Propose`."""
    return Cost(
        generated_tokens=sum(proposal.tokens for proposal in proposals), prompt_tokens=prompt_tokens, policy_calls=1
    )


def roll_out(definition: EnvDefinition, branches: Sequence[Routine[Result]]) -> Routine[list[Result]]:
    """Play branches of one task to their ends; return their results in order.

    They are played side by side, so that the models get large batches; where going back costs a replay, one after the
    other: then each branch costs one replay, not one per step. No result depends on which of the two it is.
    """
    if not definition.replays:
        return (yield from _side_by_side(branches))
    results = []
    for branch in branches:
        results.append((yield from branch))
    return results


def _side_by_side(routines: Sequence[Routine[Result]]) -> Routine[list[Result]]:
    """Run routines in lock step: what they ask for at a time is asked together."""
    results: dict[int, Result] = {}
    asked: dict[int, Sequence[Request]] = {}
    sent: dict[int, list[Any] | None] = dict.fromkeys(range(len(routines)))
    while True:
        for number, answers in sent.items():
            routine = routines[number]
            try:
                asked[number] = next(routine) if answers is None else routine.send(answers)
            except StopIteration as end:
                results[number] = end.value
        if not asked:
            return [results[number] for number in range(len(routines))]
        acting = {number: requests for number, requests in asked.items() if any(isinstance(r, Act) for r in requests)}
        turn = acting or asked  # environments first: one kind of request at a time
        found = iter((yield [request for requests in turn.values() for request in requests]))
        sent = {number: list(islice(found, len(requests))) for number, requests in turn.items()}
        asked = {number: requests for number, requests in asked.items() if number not in turn}
