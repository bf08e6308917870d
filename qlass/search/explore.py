"""Stage 2: one exploration tree per training task (method section 3; QLASS, arXiv 2502.02584, section 4.2 and Figure 2).

Nodes are expanded first in, first out. All nodes that wait at once form a wave and are expanded together, which gives
the same tree as one by one but for the numbers of its nodes (an expansion never changes what another node does) and
many times larger batches. Only the node budget is checked between waves.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from qlass.envs.core.base import EnvDefinition, TextEnv
from qlass.errors import ReplayDivergence
from qlass.policies.base import Proposed
from qlass.records import Cost, ExplorationTree, Node, Proposal, Step, TaskSpec, Trajectory
from qlass.search.branch import Candidates, Cursor, Sampling, moved, spent, start, take
from qlass.search.driver import Act, Acted, Routine
from qlass.settings import Count, Natural, NonNegative, Section, Tokens

ROOT = -1
WAVE = 8
"""Nodes expanded together at most; bounds the caches that one tree needs."""


class ExploreSettings(Section):
    """The budget and switches of exploration."""

    width: Count
    """Children per expanded node (W)."""
    depth: Natural
    """Nodes above this depth are expanded (D); at and below it one child, a plain rollout."""
    temperature: NonNegative
    """Of expansions; higher than in evaluation, as the QNet must have seen the mistakes that it is to rank."""
    rollout_temperature: NonNegative | None
    """Of a branch below its first action; null: as above (the paper). 0 makes the Q-values of siblings those of the greedy
    policy instead of one lucky or unlucky draw each."""
    expert_branch: bool
    """Hang the expert trajectory under the root."""
    max_invalid: Count | None
    """Invalid actions in a row that end a sampled branch as truncated; null: the step limit alone (the paper). A policy that
    was never shown a refusal repeats the refused action, and such branches would make up most of a tree."""
    max_redraws: Natural
    """Equal siblings are redrawn this often before the node stays narrower."""
    max_nodes: Count
    """No further expansion starts once a tree has this many nodes."""
    max_new_tokens: Tokens
    """Of a reply."""
    candidates: Candidates
    """generate, or admissible: score the environment's own list of actions."""


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
        limit = self.settings.max_invalid
        if origin != "expert" and limit is not None and self.invalid[node_id] >= limit and not cursor.ended:
            step, cursor = replace(step, truncated=True), replace(cursor, ended=True)
        siblings = self.children.setdefault(parent, [])
        self.paths[node_id] = f"{self.paths[parent]}.{len(siblings)}"
        siblings.append(node_id)
        self.nodes.append(Node(node_id, parent, cursor.depth, step, origin, logprob))
        self.cursors[node_id] = cursor
        self.cost += Cost(env_steps=1)
        return node_id

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
        """Return how many children a node may still get; the expert's child does not count at the root."""
        expert_at_root = parent == ROOT and any(
            self.nodes[child].origin == "expert" for child in self.children.get(ROOT, [])
        )
        return self.settings.width + int(expert_at_root) - len(self.children.get(parent, []))


def explore(
    env: TextEnv,
    definition: EnvDefinition,
    spec: TaskSpec,
    settings: ExploreSettings,
    sampling: Sampling,
    expert: Trajectory | None,
    *,
    wave: int = WAVE,
) -> Routine[ExplorationTree]:
    """Grow the tree of one task.

    Args:
        env: the routine's environment.
        definition: what the environment is.
        spec: the task.
        settings: budget and switches.
        sampling: how replies are drawn.
        expert: the expert trajectory of this task; used where `settings.expert_branch`.
        wave: nodes expanded together at most.

    Raises:
        ReplayDivergence: replaying the expert gave something else than recorded.
    """
    observation, root = start(env, definition, spec)
    growth = _Growth(env, definition, settings, sampling)
    growth.cursors[ROOT] = root
    if expert is not None and settings.expert_branch:
        yield from _hang_expert(growth, expert, observation)
    capped = False
    while growth.queue and not capped:
        first, growth.queue = growth.queue[:wave], growth.queue[wave:]
        parents = [node for node in first if growth.wanted(node) > 0]
        capped = bool(parents) and len(growth.nodes) >= settings.max_nodes
        if parents and not capped:
            yield from _expand(growth, parents)
    return ExplorationTree(
        task_id=spec.task_id,
        observation=observation,
        nodes=tuple(growth.nodes),
        redraws=growth.redraws,
        narrow=growth.narrow,
        stopped=growth.stopped,
        capped=capped,
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
    """Give each parent its missing children and roll every child out to the end of the episode."""
    drawn = yield from _distinct_proposals(growth, parents)
    heads = [(parent, proposal) for parent in parents for proposal in drawn[parent]]
    taken = yield from take(growth.env, [growth.cursors[parent] for parent, _ in heads], [p for _, p in heads])
    branches = []
    for (parent, proposal), (step, cursor) in zip(heads, taken, strict=True):
        branches.append([growth.add(parent, step, cursor, "expansion", proposal.logprob)])
    sampling = growth.rollout_sampling
    running = [branch for branch in branches if not growth.cursors[branch[-1]].ended]
    while running:
        cursors = [growth.cursors[branch[-1]] for branch in running]
        requests = [
            sampling.request(cursor, growth.paths[branch[-1]], (0,))
            for cursor, branch in zip(cursors, running, strict=True)
        ]
        answers: list[Proposed] = yield requests
        proposals = [answer.proposals[0] for answer in answers]
        for answer in answers:
            growth.cost += spent(answer.proposals, answer.prompt_tokens)
        taken = yield from take(growth.env, cursors, proposals)
        for branch, proposal, (step, cursor) in zip(running, proposals, taken, strict=True):
            branch.append(growth.add(branch[-1], step, cursor, "rollout", proposal.logprob))
        running = [branch for branch in running if not growth.cursors[branch[-1]].ended]
    for branch in branches:
        growth.finish(branch, growth.cursors[branch[-1]].outcome)


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
