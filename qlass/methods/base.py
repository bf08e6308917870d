"""What a method is; `qlass/methods/<method>.py` has one as METHOD. It turns one TaskSpec into Episodes.

A method is a routine for `qlass.search.driver.drive`, written as if it were alone. No method may look at a reward before
it has chosen, unless its note says that it is an oracle.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

from qlass.envs.core.base import EnvDefinition, TextEnv
from qlass.errors import EnvironmentFault, ReplayDivergence
from qlass.plugins import load, names
from qlass.policies.base import Proposed, Score
from qlass.prompts import render_reply
from qlass.records import Cost, Episode, Proposal, Step, TaskSpec
from qlass.search.branch import Candidates, Cursor, Sampling, roll_out, spent, start, take
from qlass.search.driver import Routine
from qlass.settings import Natural, NonNegative, Section, Some

S = TypeVar("S", bound="MethodSettings")

PACKAGE = "qlass.methods"

FAULTS = (EnvironmentFault, ReplayDivergence)
"""What an environment may raise in the middle of an episode: the task is lost, the panel is not."""


class MethodSettings(Section):
    """The section of a method, `methods.<method>` of params.yaml; without seeds, nothing is drawn."""

    def played_seeds(self) -> tuple[int, ...]:
        """Return the evaluation seeds with which every task is played."""
        return (0,)

    def api_keys(self) -> dict[str, str]:
        """Return the variable of the API key of each server that it asks itself, by the name of the setting."""
        return {}


class DrawnSettings(MethodSettings):
    """What methods that draw replies have in common."""

    seeds: Some[Natural]
    """Evaluation seeds; every task is played once with each."""
    temperature: NonNegative
    """Temperature of the replies."""

    def played_seeds(self) -> tuple[int, ...]:
        """Return the evaluation seeds with which every task is played."""
        return self.seeds

    def in_words(self) -> str:
        """Return temperature and seeds for a note."""
        return f"temperature {self.temperature:g}, {len(self.seeds)} seed{'s' if len(self.seeds) > 1 else ''}"


@dataclass(slots=True)
class Play:
    """One trajectory while it is played.

    Attributes:
        env: the engine, which other trajectories of the task share.
        observation: the first observation.
        cursor: where it stands.
        steps: what was executed.
        cost: what it spent.
        candidates: per step, the (action, q) pairs that were chosen from.
        logprob: summed over the replies.
        tokens: of the replies.
    """

    env: TextEnv
    observation: str
    cursor: Cursor
    steps: list[Step] = field(default_factory=list)
    cost: Cost = field(default_factory=Cost)
    candidates: list[tuple[tuple[str, float], ...]] = field(default_factory=list)
    logprob: float = 0.0
    tokens: int = 0

    def draw(self, sampling: Sampling, path: str, draws: Sequence[int]) -> Routine[tuple[Proposal, ...]]:
        """Draw replies here; `path` and the numbers in `draws` give them their seeds."""
        answers: list[Proposed] = yield [sampling.request(self.cursor, path, draws)]
        self.cost += spent(answers[0].proposals, answers[0].prompt_tokens)
        return answers[0].proposals

    def score(self, proposals: Sequence[Proposal]) -> Routine[tuple[float, ...]]:
        """Ask the QNet for the value of each proposal here."""
        replies = tuple(render_reply(proposal.thought, proposal.action) for proposal in proposals)
        answers: list[tuple[float, ...]] = yield [Score(self.cursor.history, replies)]
        self.cost += Cost(qnet_calls=len(proposals))
        return answers[0]

    def execute_best(self, proposals: Sequence[Proposal]) -> Routine[None]:
        """Execute the proposal with the highest Q-value; a single distinct one without asking for its value."""
        choices = distinct(proposals)
        values = (yield from self.score(choices)) if len(choices) > 1 else ()
        best = max(range(len(values)), key=values.__getitem__, default=0)
        yield from self.execute(choices[best], zip(choices, values, strict=False))

    def execute(self, proposal: Proposal, among: Iterator[tuple[Proposal, float]] | None = None) -> Routine[None]:
        """Execute a proposal; `among` are the proposals that it was chosen from, with their values."""
        ((step, self.cursor),) = yield from take(self.env, [self.cursor], [proposal])
        if among is not None:
            self.candidates.append(tuple((one.action, round(value, 6)) for one, value in among))
        self.steps.append(step)
        self.cost += Cost(env_steps=1)
        self.logprob += proposal.logprob
        self.tokens += proposal.tokens


@dataclass(slots=True)
class Assignment:
    """One task to be played once.

    Attributes:
        env: the engine, which belongs to this assignment until its end.
        definition: what the environment is.
        spec: the task.
        row: name of the row of the comparison, the first of the method's rows.
        number: evaluation seed, as recorded.
        seed: root of all draws.
        candidates: generate replies freely, or choose among the environment's admissible actions.
        logprobs: whether the log probabilities of replies are known; some servers give none.
        plays: the trajectories begun so far.
    """

    env: TextEnv
    definition: EnvDefinition
    spec: TaskSpec
    row: str
    number: int
    seed: int
    candidates: Candidates = "generate"
    logprobs: bool = True
    plays: list[Play] = field(default_factory=list)

    def begin(self, count: int = 1) -> list[Play]:
        """Reset the environment and return `count` trajectories that start there."""
        observation, root = start(self.env, self.definition, self.spec)
        begun = [Play(self.env, observation, root) for _ in range(count)]
        self.plays += begun
        return begun

    def sampling(self, temperature: float) -> Sampling:
        """Return how replies are drawn at a temperature."""
        return Sampling(temperature, self.seed, self.candidates)

    def finish(self, plays: Sequence[Play], sampling: Sampling) -> Routine[None]:
        """Play trajectories to their ends, one reply at a time; side by side, where going back costs nothing."""
        rollouts = [self._rollout(number, one, sampling) for number, one in enumerate(plays)]
        yield from roll_out(self.definition, rollouts)

    def _rollout(self, number: int, one: Play, sampling: Sampling) -> Routine[None]:
        while not one.cursor.ended:
            (proposal,) = yield from one.draw(sampling, f"rollout {number}", (0,))
            yield from one.execute(proposal)

    def episode(self, play: Play, row: str | None = None, cost: Cost | None = None) -> Episode:
        """Record a trajectory as the Episode of a row, by default of the first one and with its own cost."""
        return Episode(
            task_id=self.spec.task_id,
            category=self.spec.category,
            method=row or self.row,
            seed=self.number,
            outcome=play.cursor.outcome,
            success=play.cursor.success,
            observation=play.observation,
            steps=tuple(play.steps),
            cost=cost or play.cost,
            candidates=tuple(play.candidates),
        )

    def failure(self, row: str, fault: Exception) -> Episode:
        """Record a task that could not be played to its end as a failure with its reason.

        What was spent is kept; so are the steps, where they are those of one trajectory.
        """
        one = self.plays[0] if len(self.plays) == 1 else None
        return Episode(
            task_id=self.spec.task_id,
            category=self.spec.category,
            method=row,
            seed=self.number,
            outcome=0.0,
            success=False,
            observation=one.observation if one else "",
            steps=tuple(one.steps) if one else (),
            cost=sum((each.cost for each in self.plays), Cost()),
            error=f"{type(fault).__name__}: {fault}",
            candidates=tuple(one.candidates) if one else (),
        )


@dataclass(frozen=True, slots=True)
class Method:
    """How a task is played.

    Attributes:
        title: name of its row in tables.
        settings: its section, `methods.<method>` of params.yaml.
        play: plays one assignment; returns one Episode per row, in the order of the rows.
        note: a few words about the settings under the name of each row, by variant; the first row's variant is "".
        needs_qnet: whether it asks for Q-values.
        variants: further rows that share the play and its cost; the row of variant `v` is called `<method>_v`.
        by_likelihood: those of the variants that choose by log probabilities; without these they are not measured.
        likelihood_setting: name of the setting by which, as it is, the whole method chooses by log probabilities, so that it
            cannot be played without; None where it can.
        seeded_as: the method with whose seeds it draws, so that the two rows differ by nothing else; None: its own.
        needs_task: it says the task in other words, so that `EnvDefinition.partition_task` must be there.
    """

    title: str
    settings: type[MethodSettings]
    play: Callable[[Assignment, Any], Routine[list[Episode]]]
    note: Callable[[Any], Mapping[str, str]]
    needs_qnet: bool = True
    variants: tuple[str, ...] = ()
    by_likelihood: tuple[str, ...] = ()
    likelihood_setting: Callable[[Any], str | None] = lambda _: None
    seeded_as: str | None = None
    needs_task: bool = False

    def rows(self, name: str, *, logprobs: bool = True) -> tuple[str, ...]:
        """Return the rows of the comparison, the first one called `name`; without log probabilities there are fewer."""
        left_out = () if logprobs else self.by_likelihood
        return (name, *(f"{name}_{variant}" for variant in self.variants if variant not in left_out))

    def routine(self, given: Assignment, settings: MethodSettings) -> Routine[list[Episode]]:
        """Play an assignment; a fault of the environment is recorded as a failure of every row."""
        try:
            return (yield from self.play(given, settings))
        except FAULTS as fault:
            return [given.failure(row, fault) for row in self.rows(given.row, logprobs=given.logprobs)]


def distinct(proposals: Sequence[Proposal]) -> list[Proposal]:
    """Keep the first proposal of each normalised action, in order."""
    first: dict[str, Proposal] = {}
    for proposal in proposals:
        first.setdefault(proposal.action, proposal)
    return list(first.values())


def method_names() -> tuple[str, ...]:
    """Return all methods, none of them imported."""
    return tuple(name for name in names(PACKAGE) if name != "base")


def get_method(name: str) -> Method:
    """Return a method.

    Raises:
        SettingsError: no method has this name.
    """
    method: Method = load(PACKAGE, name, method_names(), "METHOD")
    return method
