"""Stage 2: one exploration tree per training task (method section 3; QLASS, arXiv 2502.02584, section 4.2 and Figure 2).

Nodes are expanded first in, first out. All nodes that wait at once form a wave and are expanded together, which gives
the same tree as one by one but for the numbers of its nodes (an expansion never changes what another node does) and
many times larger batches. The node budget holds exactly: see `ExploreSettings.max_nodes`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from qlass.envs.core.base import EnvDefinition, TextEnv
from qlass.errors import ReplayDivergence
from qlass.policies.base import Proposed
from qlass.records import Cost, ExplorationTree, Node, Proposal, Step, TaskSpec, Trajectory
from qlass.search.branch import Candidates, Cursor, Sampling, moved, roll_out, spent, start, take
from qlass.search.driver import Act, Acted, Routine
from qlass.settings import Actions, Depth, Draws, Nodes, NonNegative, Section

ROOT = -1
WAVE = 8
"""Nodes expanded together at most; bounds the caches that one tree needs."""


class ExploreSettings(Section):
    """The budget and switches of exploration."""

    width: Nodes
    """Children of each node that is expanded (W)."""
    depth: Depth
    """Nodes above this depth are expanded (D); at and below it a branch goes on without choices. 0: the tree is one
    branch, the expert's or, where none hangs there, one that is sampled."""
    temperature: NonNegative
    """Temperature of expansions; higher than in evaluation, as the QNet must have seen the mistakes that it is to
    rank."""
    rollout_temperature: NonNegative | None
    """Temperature below a branch's first action; null: that of expansions (the paper). 0 makes the Q-values of
    siblings those of the greedy policy instead of one lucky or unlucky draw each."""
    expert_branch: bool
    """Whether the expert trajectory hangs under the root, beside what is sampled."""
    max_invalid: Actions | None
    """Invalid actions in a row that end a sampled branch (truncated) with what the episode pays by then, mostly 0;
    null: it goes on to the step limit, as in the paper. A policy that was never shown a refusal repeats the refused
    action, and such branches would make up most of a tree."""
    max_redraws: Draws
    """How often replies that repeat the action of a sibling are drawn again before the node stays narrower."""
    max_nodes: Nodes
    """Nodes that a tree has at most, or as many as the expert branch alone, which is always whole. Branches count in
    the order in which they start when nodes are expanded one by one. The first one that does not fit ends the
    exploration; it and what was begun after it are left out, for a branch without its end has no outcome. A tree that
    fits is the same without the limit."""
    candidates: Candidates
    """Where actions come from. `generate`: the policy writes its replies; `admissible`: it chooses from the
    environment's own list, where there is one."""


@dataclass(slots=True)
class _Branch:
    """A sampled branch that is not part of the tree yet.

    Attributes:
        parent: the node that it leaves.
        path: of the node where it stands.
        cursor: where it stands.
        invalid: invalid actions in a row up to there.
        taken: its nodes so far: step, cursor and log probability.
    """

    parent: int
    path: str
    cursor: Cursor
    invalid: int
    taken: list[tuple[Step, Cursor, float]] = field(default_factory=list)

    def add(self, step: Step, cursor: Cursor, logprob: float, max_invalid: int | None) -> None:
        """Go on by a step, which is the last one where too many in a row were invalid."""
        self.invalid = 0 if step.valid else self.invalid + 1
        if max_invalid is not None and self.invalid >= max_invalid and not cursor.ended:
            step, cursor = replace(step, truncated=True, reward=cursor.outcome), replace(cursor, ended=True)
        if self.taken:
            self.path += ".0"
        self.cursor = cursor
        self.taken.append((step, cursor, logprob))


@dataclass(slots=True)
class _Growth:
    """A tree while it grows."""

    env: TextEnv
    definition: EnvDefinition
    settings: ExploreSettings
    sampling: Sampling
    nodes: list[Node] = field(default_factory=list)
    cursors: dict[int, Cursor] = field(default_factory=dict)
    paths: dict[int, str] = field(default_factory=lambda: {ROOT: "root"})
    invalid: dict[int, int] = field(default_factory=lambda: {ROOT: 0})
    children: dict[int, list[int]] = field(default_factory=dict)
    queue: list[int] = field(default_factory=lambda: [ROOT])
    capped: bool = False
    redraws: int = 0
    narrow: int = 0
    stopped: int = 0
    cost: Cost = field(default_factory=Cost)

    @property
    def rollout_sampling(self) -> Sampling:
        """How replies below a branch's first one are drawn."""
        temperature = self.settings.rollout_temperature
        return self.sampling if temperature is None else replace(self.sampling, temperature=temperature)

    def add(
        self,
        parent: int,
        step: Step,
        cursor: Cursor,
        origin: Literal["expert", "expansion", "rollout"],
        logprob: float,
    ) -> int:
        """Hang a node under a parent and return its id."""
        node_id = len(self.nodes)
        self.invalid[node_id] = 0 if step.valid else self.invalid[parent] + 1
        siblings = self.children.setdefault(parent, [])
        self.paths[node_id] = f"{self.paths[parent]}.{len(siblings)}"
        siblings.append(node_id)
        self.nodes.append(Node(node_id, parent, cursor.depth, step, origin, logprob))
        self.cursors[node_id] = cursor
        return node_id

    def branches(self, drawn: Mapping[int, Sequence[Proposal]]) -> list[tuple[_Branch, Proposal]]:
        """Return the branches that begin with some proposals, by parent."""
        return [
            (
                _Branch(
                    parent,
                    f"{self.paths[parent]}.{len(self.children.get(parent, [])) + number}",
                    self.cursors[parent],
                    self.invalid[parent],
                ),
                proposal,
            )
            for parent, proposals in drawn.items()
            for number, proposal in enumerate(proposals)
        ]

    def fits(self, branches: Sequence[_Branch]) -> bool:
        """Say whether the tree has room for some branches, each that has not ended with one more step."""
        wanted = sum(len(branch.taken) + (not branch.cursor.ended) for branch in branches)
        return len(self.nodes) + wanted <= self.settings.max_nodes

    def hang(self, branches: Sequence[_Branch]) -> None:
        """Hang ended branches into the tree; their nodes are numbered step by step, as if all had grown together."""
        ids: list[list[int]] = [[] for _ in branches]
        for number in range(max((len(branch.taken) for branch in branches), default=0)):
            for branch, above in zip(branches, ids, strict=True):
                if number < len(branch.taken):
                    step, cursor, logprob = branch.taken[number]
                    parent = above[-1] if above else branch.parent
                    above.append(self.add(parent, step, cursor, "rollout" if above else "expansion", logprob))
        for branch, nodes in zip(branches, ids, strict=True):
            self.finish(nodes, branch.cursor.outcome)

    def finish(self, branch: Sequence[int], outcome: float) -> None:
        """Queue the nodes of a finished branch, or stop them where the outcome is zero (Figure 2)."""
        open_nodes = [node for node in branch[:-1] if self.nodes[node].depth < self.settings.depth]
        if outcome > 0:
            self.queue.extend(open_nodes)
        else:
            self.stopped += len(open_nodes)

    def actions(self, parent: int) -> set[str]:
        """Return the normalised actions of a node's children; an expert's may be written in another way."""
        normalise = self.definition.normalise_action
        return {normalise(self.nodes[child].step.action) for child in self.children.get(parent, [])}

    def wanted(self, parent: int) -> int:
        """Return how many children a node may still get; the expert's child does not count at an expanded root."""
        children = self.children.get(parent, [])
        if self.settings.depth == 0:
            return 1 - len(children)
        expert_at_root = parent == ROOT and any(self.nodes[child].origin == "expert" for child in children)
        return self.settings.width + int(expert_at_root) - len(children)


def explore(
    env: TextEnv,
    definition: EnvDefinition,
    spec: TaskSpec,
    settings: ExploreSettings,
    expert: Trajectory | None,
    *,
    seed: int,
    wave: int = WAVE,
) -> Routine[ExplorationTree]:
    """Grow the tree of one task.

    Args:
        env: the routine's environment.
        definition: what the environment is.
        spec: the task.
        settings: budget and switches.
        expert: the expert trajectory of this task; used where `settings.expert_branch`.
        seed: root of all draws of this tree.
        wave: nodes expanded together at most.

    Raises:
        ReplayDivergence: replaying the expert gave something else than recorded.
    """
    observation, root = start(env, definition, spec)
    sampling = Sampling(settings.temperature, seed, settings.candidates)
    growth = _Growth(env, definition, settings, sampling)
    growth.cursors[ROOT] = root
    if expert is not None and settings.expert_branch:
        yield from _hang_expert(growth, expert, observation)
    while growth.queue and not growth.capped:
        first, growth.queue = growth.queue[:wave], growth.queue[wave:]
        parents = [node for node in first if growth.wanted(node) > 0]
        growth.capped = bool(parents) and len(growth.nodes) >= settings.max_nodes
        if parents and not growth.capped:
            yield from _expand(growth, parents)
    return ExplorationTree(
        task_id=spec.task_id,
        observation=observation,
        nodes=tuple(growth.nodes),
        redraws=growth.redraws,
        narrow=growth.narrow,
        stopped=growth.stopped,
        capped=growth.capped,
        cost=growth.cost,
    )


def _hang_expert(growth: _Growth, expert: Trajectory, observation: str) -> Routine[None]:
    """Replay the expert trajectory under the root, checking every observation."""
    if observation != expert.observation:
        raise _diverged(expert, 0, (expert.observation,), (observation,))
    parent, branch = ROOT, []
    for number, recorded in enumerate(expert.steps, start=1):
        cursor = growth.cursors[parent]
        answers: list[Acted] = yield [Act(growth.env, cursor.state, recorded.action)]
        expected, found = _result(recorded), _result(answers[0])
        if found != expected:
            raise _diverged(expert, number, expected, found)
        growth.cost += Cost(env_steps=1)
        parent = growth.add(parent, recorded, moved(cursor, recorded, answers[0]), "expert", 0.0)
        branch.append(parent)
    growth.finish(branch, expert.outcome)


def _result(step: Step | Acted) -> tuple[str, float, bool, bool]:
    return step.observation, step.reward, step.terminated, step.truncated


def _diverged(
    expert: Trajectory, number: int, recorded: tuple[object, ...], found: tuple[object, ...]
) -> ReplayDivergence:
    return ReplayDivergence(
        f"{expert.task_id}: replaying the expert, step {number} gave {found}, recorded was {recorded}; the trajectories "
        "belong to another version of the environment or another step limit: run the expert stage again"
    )


def _expand(growth: _Growth, parents: list[int]) -> Routine[None]:
    """Give each parent its missing children and roll every child out to its end, as far as there is room."""
    drawn = yield from _distinct_proposals(growth, parents)
    begun = growth.branches(drawn)
    branches = [branch for branch, _ in begun]
    rollouts = [_roll_out(growth, branches[: number + 1], proposal) for number, (_, proposal) in enumerate(begun)]
    yield from roll_out(growth.definition, rollouts)
    while branches and not growth.fits(branches):
        growth.capped = True
        branches.pop()
    growth.hang(branches)


def _roll_out(growth: _Growth, branches: Sequence[_Branch], proposal: Proposal) -> Routine[None]:
    """Play the last of some branches to its end, or until it and those before it do not fit into the tree together."""
    branch, sampling = branches[-1], growth.rollout_sampling
    while not branch.cursor.ended and growth.fits(branches):
        if branch.taken:
            answers: list[Proposed] = yield [sampling.request(branch.cursor, branch.path, (0,))]
            proposal = answers[0].proposals[0]
            growth.cost += spent(answers[0].proposals, answers[0].prompt_tokens)
        ((step, cursor),) = yield from take(growth.env, [branch.cursor], [proposal])
        growth.cost += Cost(env_steps=1)
        branch.add(step, cursor, proposal.logprob, growth.settings.max_invalid)


def _distinct_proposals(growth: _Growth, parents: list[int]) -> Routine[dict[int, list[Proposal]]]:
    """Draw proposals until each parent has its width of distinct actions, or the redraws are spent."""
    found: dict[int, list[Proposal]] = {parent: [] for parent in parents}
    taken = {parent: growth.actions(parent) for parent in parents}
    missing = {parent: growth.wanted(parent) for parent in parents}
    draws = dict.fromkeys(parents, 1)  # draw 0 is the one that continued the rollout
    for _ in range(growth.settings.max_redraws + 1):
        short = [parent for parent in parents if missing[parent]]
        if not short:
            break
        requests = []
        for parent in short:
            numbers = range(draws[parent], draws[parent] + missing[parent])
            draws[parent] = numbers.stop
            requests.append(growth.sampling.request(growth.cursors[parent], growth.paths[parent], numbers))
        answers: list[Proposed] = yield requests
        for parent, answer in zip(short, answers, strict=True):
            growth.cost += spent(answer.proposals, answer.prompt_tokens)
            for proposal in answer.proposals:
                if proposal.action in taken[parent]:
                    growth.redraws += 1
                    continue
                taken[parent].add(proposal.action)
                found[parent].append(proposal)
                missing[parent] -= 1
    growth.narrow += sum(count > 0 for count in missing.values())
    return found
