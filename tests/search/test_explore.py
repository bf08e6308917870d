"""Exploration trees of corridor: what every tree must be, whatever the budget, the seed and the order of expansion."""

from __future__ import annotations

import math
import re
from collections import Counter, defaultdict
from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from qlass.envs import make_env
from qlass.envs.core.base import EnvDefinition, StepResult
from qlass.envs.core.replay import Replayed
from qlass.envs.core.time_limit import TimeLimit
from qlass.errors import EnvironmentFault, ReplayDivergence
from qlass.labels import label_tree
from qlass.policies.base import Propose, Proposed
from qlass.policies.scripted import ScriptedPolicy
from qlass.records import ExplorationTree, History, Message, Node, Step, TaskSpec, Trajectory
from qlass.search.explore import ExploreSettings, explore
from tests.engines import drive

from .conftest import MAX_STEPS, OPTIONS, CountedEnv, CountedPolicy, wander

UNLIMITED = 10**6
ROOT = -1


@dataclass(frozen=True)
class Case:
    """One exploration: which task, which budget, which draws."""

    task: int
    settings: ExploreSettings
    seed: int


cases = st.builds(
    Case,
    task=st.integers(0, 23),
    settings=st.builds(
        ExploreSettings,
        width=st.integers(1, 3),
        depth=st.integers(1, 4),
        expert_branch=st.booleans(),
        max_redraws=st.integers(0, 3),
        max_nodes=st.just(UNLIMITED),
        temperature=st.just(0.7),
        rollout_temperature=st.sampled_from([None, 0.0, 1.0]),
        max_invalid=st.sampled_from([None, 1, 2]),
        candidates=st.just("generate"),
    ),
    seed=st.integers(0, 5),
)


def changed(case: Case, **changes: Any) -> Case:
    """Return a case with another budget."""
    return replace(case, settings=ExploreSettings(**case.settings.model_dump() | changes))


class Explorer:
    """Grows trees, each on a fresh engine with a fresh policy."""

    def __init__(self, corridor: EnvDefinition, specs: list[TaskSpec], experts: list[Trajectory]) -> None:
        self.corridor, self.specs, self.experts = corridor, specs, experts

    def policy(self) -> CountedPolicy:
        return CountedPolicy(ScriptedPolicy(wander, self.corridor.normalise_action))

    def env(self) -> CountedEnv:
        return CountedEnv(make_env(self.corridor, OPTIONS, MAX_STEPS))

    def start(self, case: Case, **changes: Any) -> Callable[[Any], Any]:
        return lambda env: explore(
            env,
            self.corridor,
            self.specs[case.task],
            case.settings,
            changes.pop("expert", self.experts[case.task]),
            seed=case.seed,
            **changes,
        )

    def grow(self, case: Case, **changes: Any) -> tuple[ExplorationTree, CountedEnv, CountedPolicy]:
        env, policy = self.env(), self.policy()
        ((_, tree),) = drive([self.start(case, **changes)], [env], policy)
        return tree, env, policy


class Steps(CountedEnv):
    """An engine that counts all its steps and cannot go back."""

    steps = 0

    def step(self, action: str) -> StepResult:
        self.steps += 1
        return super().step(action)

    def snapshot(self) -> Any:
        raise NotImplementedError

    def restore(self, snapshot: Any) -> None:
        raise NotImplementedError


@pytest.fixture(scope="module")
def explorer(corridor: EnvDefinition, specs: list[TaskSpec], experts: list[Trajectory]) -> Explorer:
    return Explorer(corridor, specs, experts)


def children_of(tree: ExplorationTree) -> dict[int, list[Node]]:
    found: dict[int, list[Node]] = defaultdict(list)
    for node in tree.nodes:
        found[node.parent_id].append(node)
    return found


def branches_of(tree: ExplorationTree) -> list[list[Node]]:
    """Return the nodes that each rollout created, and those of the expert, from the first to the leaf."""
    children, branches = children_of(tree), []
    for node in tree.nodes:
        if node.origin == "expansion" or (node.origin == "expert" and node.parent_id == ROOT):
            kind = "rollout" if node.origin == "expansion" else "expert"
            branch = [node]
            while further := [child for child in children[branch[-1].node_id] if child.origin == kind]:
                (child,) = further
                branch.append(child)
            branches.append(branch)
    assert sum(map(len, branches)) == len(tree.nodes)
    return branches


def path_to(tree: ExplorationTree, node: Node) -> list[Node]:
    """Return the nodes from the root's child to a node."""
    path = [node]
    while path[0].parent_id != ROOT:
        path.insert(0, tree.nodes[path[0].parent_id])
    return path


def stuck_at(tree: ExplorationTree, node: Node) -> int:
    """Return how many invalid steps in a row end with a node; 0 for the expert's."""
    count = 0
    while not node.step.valid and node.origin != "expert":
        count += 1
        if node.parent_id == ROOT:
            break
        node = tree.nodes[node.parent_id]
    return count


def shape_of(tree: ExplorationTree) -> dict[str, Any]:
    """Return everything about a tree but the numbers of its nodes."""
    children = children_of(tree)

    def below(parent: int) -> list[Any]:
        return [(node.step, node.origin, node.logprob, node.depth, below(node.node_id)) for node in children[parent]]

    return {
        "nodes": below(ROOT),
        **{name: getattr(tree, name) for name in tree.__slots__ if name != "nodes"},
    }


@given(case=cases)
def test_a_tree_is_a_tree_within_its_budget(explorer: Explorer, case: Case) -> None:
    tree, _, _ = explorer.grow(case)
    budget, children = case.settings, children_of(tree)
    assert tree.task_id == explorer.specs[case.task].task_id
    assert not tree.capped
    for number, node in enumerate(tree.nodes):
        assert node.node_id == number > node.parent_id >= ROOT
        assert node.depth == 1 + (tree.nodes[node.parent_id].depth if node.parent_id >= 0 else 0)
        ended = node.step.terminated or node.step.truncated
        assert ended == (not children[number])
    for parent in (ROOT, *range(len(tree.nodes))):
        actions = [node.step.action for node in children[parent]]
        assert len(set(actions)) == len(actions)
        assert all(action == explorer.corridor.normalise_action(action) for action in actions)
        depth = tree.nodes[parent].depth if parent >= 0 else 0
        expert_at_root = parent == ROOT and budget.expert_branch
        assert len(actions) <= (budget.width + expert_at_root if depth < budget.depth else 1)
    assert len(label_tree(tree, 0.9)) == len(tree.nodes)


@given(case=cases)
def test_every_branch_replays_in_a_fresh_engine(explorer: Explorer, case: Case) -> None:
    tree, _, _ = explorer.grow(case)
    children = children_of(tree)
    for leaf in tree.nodes:
        if children[leaf.node_id]:
            continue
        path = path_to(tree, leaf)
        env = explorer.env()
        assert env.reset(explorer.specs[case.task])[0] == tree.observation
        for node in path:
            observation, reward, terminated, truncated, info = env.step(node.step.action)
            truncated = truncated or stuck_at(tree, node) == case.settings.max_invalid
            expected = Step(node.step.thought, node.step.action, observation, reward, terminated, truncated)
            assert replace(node.step, valid=True) == expected
            assert info["valid"] or not node.step.valid


@given(case=cases)
def test_the_stop_rule(explorer: Explorer, case: Case) -> None:
    """Below a branch without reward nothing is expanded; on the others every node above the depth is."""
    tree, _, _ = explorer.grow(case)
    children, width = children_of(tree), case.settings.width
    stopped = narrow = 0
    narrow += len(children[ROOT]) < width + any(node.origin == "expert" for node in children[ROOT])
    for branch in branches_of(tree):
        outcome = branch[-1].step.reward
        for node in branch[:-1]:
            if node.depth >= case.settings.depth:
                assert len(children[node.node_id]) == 1
            elif outcome == 0:
                assert len(children[node.node_id]) == 1
                stopped += 1
            else:
                narrow += len(children[node.node_id]) < width
    assert (tree.stopped, tree.narrow) == (stopped, narrow)


@given(case=cases)
def test_costs_are_counted_exactly(explorer: Explorer, case: Case) -> None:
    tree, env, policy = explorer.grow(case)
    assert tree.cost == replace(policy.cost, env_steps=len(env.executed))
    assert tree.cost.env_steps == len(tree.nodes)
    sampled = sum(node.origin != "expert" for node in tree.nodes)
    assert policy.proposals == sampled + tree.redraws
    seeds = [seed for batch in policy.batches for request in batch for seed in request.seeds]
    assert len(set(seeds)) == len(seeds) == policy.proposals  # no draw is ever repeated


@given(case=cases)
def test_nodes_are_expanded_first_in_first_out(explorer: Explorer, case: Case) -> None:
    tree, _, _ = explorer.grow(case, wave=1)
    branches = branches_of(tree)
    queue, order = [ROOT], []

    def finish(branch: list[Node]) -> None:
        if branch[-1].step.reward > 0:
            queue.extend(node.node_id for node in branch[:-1] if node.depth < case.settings.depth)

    for branch in branches:
        if branch[0].origin == "expert":
            finish(branch)
    while queue:
        parent = queue.pop(0)
        grown = [branch for branch in branches if branch[0].parent_id == parent and branch[0].origin == "expansion"]
        order += [branch[0].node_id for branch in grown]
        for branch in grown:
            finish(branch)
    assert order == [node.node_id for node in tree.nodes if node.origin == "expansion"]


@given(case=cases, wave=st.sampled_from([2, 3, 8]))
def test_a_wave_gives_the_tree_of_one_by_one(explorer: Explorer, case: Case, wave: int) -> None:
    together, env, _ = explorer.grow(case, wave=wave)
    alone, other, _ = explorer.grow(case, wave=1)
    assert shape_of(together) == shape_of(alone)
    assert sorted(env.executed) == sorted(other.executed)


def in_order(tree: ExplorationTree) -> list[list[Any]]:
    """Return the branches of a tree that was grown one node at a time, in the order in which they started."""
    return [
        [(node.step, node.origin, node.logprob, tuple(n.step.action for n in path_to(tree, node))) for node in branch]
        for branch in branches_of(tree)
    ]


@given(case=cases, max_nodes=st.integers(1, 60), wave=st.sampled_from([1, 2, 8]))
def test_the_node_budget(explorer: Explorer, case: Case, max_nodes: int, wave: int) -> None:
    """A capped tree is the first branches of the whole tree, as many as fit; a tree that fits is the whole tree."""
    whole, _, _ = explorer.grow(case, wave=wave)
    limited = changed(case, max_nodes=max_nodes)
    tree, env, _ = explorer.grow(limited, wave=wave)
    expert = sum(node.origin == "expert" for node in whole.nodes)
    assert len(tree.nodes) <= max(max_nodes, expert)
    assert tree.capped or tree == whole
    assert tree.capped <= (len(whole.nodes) > max_nodes)
    alone = in_order(explorer.grow(case, wave=1)[0])
    branches = in_order(explorer.grow(limited, wave=1)[0])
    assert branches == alone[: len(branches)]
    if len(branches) < len(alone):
        assert sum(map(len, alone[: len(branches) + 1])) > max_nodes
    assert sorted(map(repr, in_order(tree))) == sorted(map(repr, branches))  # whatever grows together
    assert label_tree(tree, 0.9) or not tree.nodes
    assert all(
        node.step.terminated or node.step.truncated for node in tree.nodes if not children_of(tree)[node.node_id]
    )
    assert tree.cost.env_steps == len(env.executed)
    together = case.settings.width * wave + 1
    assert tree.cost.env_steps <= expert + max_nodes * (1 + math.log(together))


def test_a_small_budget_holds(corridor: EnvDefinition, explorer: Explorer) -> None:
    """Wide waves of long branches, which used to be finished whatever they cost."""
    policy = CountedPolicy(ScriptedPolicy(lambda history, rng: f"Action: {rng.random()}", corridor.normalise_action))
    case = a_case(width=4, max_nodes=30, max_redraws=0)
    ((_, tree),) = drive([explorer.start(case)], [explorer.env()], policy)
    expert = len(explorer.experts[1].steps)
    assert tree.capped
    assert len(tree.nodes) == expert + (30 - expert) // MAX_STEPS * MAX_STEPS


@pytest.mark.parametrize("max_nodes", [1, 3])
def test_the_expert_branch_is_whole_whatever_the_budget(explorer: Explorer, max_nodes: int) -> None:
    tree, _, policy = explorer.grow(a_case(max_nodes=max_nodes))
    assert [node.step for node in tree.nodes] == list(explorer.experts[1].steps)
    assert len(tree.nodes) > max_nodes
    assert (tree.capped, policy.batches) == (True, [])


def test_depth_0_is_the_expert_branch_alone(explorer: Explorer) -> None:
    tree, _, policy = explorer.grow(a_case(depth=0))
    assert [node.step for node in tree.nodes] == list(explorer.experts[1].steps)
    assert (tree.capped, tree.narrow, tree.stopped, policy.batches) == (False, 0, 0, [])


def test_depth_0_without_an_expert_is_one_branch(explorer: Explorer) -> None:
    tree, _, policy = explorer.grow(a_case(depth=0, expert_branch=False))
    (branch,) = branches_of(tree)
    assert branch == list(tree.nodes)
    assert branch[-1].step.terminated or branch[-1].step.truncated
    assert all(len(request.seeds) == 1 for batch in policy.batches for request in batch)


@settings(max_examples=15)
@given(case=cases)
def test_the_expert_hangs_under_the_root(explorer: Explorer, case: Case) -> None:
    with_expert = changed(case, expert_branch=True)
    tree, _, _ = explorer.grow(with_expert)
    expert = explorer.experts[case.task]
    chain = tree.nodes[: len(expert.steps)]
    assert [node.step for node in chain] == list(expert.steps)
    assert [node.parent_id for node in chain] == list(range(-1, len(chain) - 1))
    assert {node.origin for node in chain} == {"expert"}
    assert "expert" not in {node.origin for node in tree.nodes[len(chain) :]}
    without = changed(case, expert_branch=False)
    assert "expert" not in {node.origin for node in explorer.grow(without)[0].nodes}
    assert explorer.grow(with_expert, expert=None)[0] == explorer.grow(without)[0]


def a_case(**changes: Any) -> Case:
    budget = {
        "width": 2, "depth": 3, "temperature": 0.7, "rollout_temperature": None, "expert_branch": True, "max_invalid": None,
        "max_redraws": 4, "max_nodes": UNLIMITED, "candidates": "generate",
    }  # fmt: skip
    return Case(1, ExploreSettings(**budget | changes), 0)


def test_an_expert_that_writes_actions_in_another_way(explorer: Explorer) -> None:
    """Siblings differ by what the environment executes, not by how it is written."""
    expert = explorer.experts[1]
    loud = replace(expert, steps=tuple(replace(step, action=f" {step.action.upper()}. ") for step in expert.steps))
    tree, _, _ = explorer.grow(a_case(), expert=loud)
    plain_tree, _, _ = explorer.grow(a_case())
    assert len(tree.nodes) > len(expert.steps)
    for siblings in children_of(tree).values():
        actions = [explorer.corridor.normalise_action(node.step.action) for node in siblings]
        assert len(set(actions)) == len(actions)
    assert [node.parent_id for node in tree.nodes] == [node.parent_id for node in plain_tree.nodes]


@pytest.mark.parametrize("change", ["first observation", "observation", "reward", "truncated"])
def test_another_expert_is_a_divergence(explorer: Explorer, change: str) -> None:
    expert = explorer.experts[1]
    *steps, last = expert.steps
    wrong = {
        "first observation": replace(expert, observation="You are elsewhere."),
        "observation": replace(expert, steps=(replace(steps[0], observation="?"), *steps[1:], last)),
        "reward": replace(expert, steps=(*steps, replace(last, reward=0.5))),
        "truncated": replace(expert, steps=(*steps, replace(last, truncated=True, terminated=False))),
    }[change]
    message = rf"{re.escape(expert.task_id)}: replaying the expert.*run the expert stage again"
    with pytest.raises(ReplayDivergence, match=message):
        explorer.grow(a_case(), expert=wrong)


def test_equal_draws_are_redrawn_up_to_the_limit(corridor: EnvDefinition, explorer: Explorer) -> None:
    policy = CountedPolicy(ScriptedPolicy(lambda history, rng: "Action: go east", corridor.normalise_action))
    case = a_case(width=3, expert_branch=False, depth=1)
    ((_, tree),) = drive([explorer.start(case)], [explorer.env()], policy)
    assert len(children_of(tree)[ROOT]) == 1
    assert (tree.narrow, tree.redraws) == (1, 2 + 4 * 2)  # two of the first three, then four times two
    assert [len(request.seeds) for batch in policy.batches[:5] for request in batch] == [3, 2, 2, 2, 2]
    seeds = [seed for batch in policy.batches for request in batch for seed in request.seeds]
    assert len(set(seeds)) == len(seeds)


def test_greedy_draws_never_repeat_a_path(explorer: Explorer) -> None:
    tree, _, _ = explorer.grow(a_case(width=3, max_redraws=1, temperature=0.0))
    assert tree.narrow > 0
    assert len(label_tree(tree, 0.9)) == len(tree.nodes)


@pytest.mark.parametrize(("given_temperature", "expected"), [(None, 0.7), (0.0, 0.0), (1.0, 1.0)])
def test_only_the_first_action_of_a_branch_is_drawn_at_the_first_temperature(
    explorer: Explorer, given_temperature: float | None, expected: float
) -> None:
    tree, _, policy = explorer.grow(a_case(rollout_temperature=given_temperature))
    drawn = Counter(request.temperature for batch in policy.batches for request in batch)
    rollouts = sum(node.origin == "rollout" for node in tree.nodes)
    assert rollouts > 0
    assert set(drawn) == {0.7, expected}
    assert expected == 0.7 or drawn[expected] == rollouts


def test_a_stuck_branch_ends_and_no_other_one(explorer: Explorer) -> None:
    """The trees are those without the limit, but for what lies below the limit."""
    stuck = 0
    for task in range(12):
        case = replace(a_case(rollout_temperature=0.0), task=task)
        whole, _, _ = explorer.grow(case)
        tree, env, _ = explorer.grow(changed(case, max_invalid=2))
        actions = {tuple(n.step.action for n in path_to(whole, node)): node for node in whole.nodes}
        for node in tree.nodes:
            twin = actions[tuple(n.step.action for n in path_to(tree, node))]
            ends = stuck_at(tree, node) == 2
            assert node.step == replace(twin.step, truncated=twin.step.truncated or ends)
            stuck += ends
            assert stuck_at(tree, node) <= 2
        assert len(env.executed) == len(tree.nodes)
    assert stuck > 3


def test_a_branch_that_leaves_a_stuck_expert_ends_at_once(explorer: Explorer) -> None:
    """The expert itself made `max_invalid` invalid actions in a row; below them the next invalid one is the last."""
    below = []
    for task in range(12):
        case = replace(a_case(width=4, rollout_temperature=0.0, max_invalid=2), task=task)
        env = explorer.env()
        env.reset(explorer.specs[task])
        steps = []
        for action in ("open window", "open window", *(step.action for step in explorer.experts[task].steps)):
            observation, reward, terminated, truncated, info = env.step(action)
            steps.append(Step("", action, observation, reward, terminated, truncated, info["valid"]))
        expert = replace(explorer.experts[task], steps=tuple(steps))
        tree, _, _ = explorer.grow(case, expert=expert)
        below += [node for node in tree.nodes if node.parent_id == 1 and node.origin != "expert"]
    invalid = [node for node in below if not node.step.valid]
    assert invalid
    assert all(node.step.truncated for node in invalid)


class Paying(CountedEnv):
    """An engine that would pay a quarter, once somebody moved, if the episode ended before its end."""

    def step(self, action: str) -> StepResult:
        observation, reward, terminated, truncated, info = super().step(action)
        moved = any(action.startswith("go ") for action in self.executed)
        if not (terminated or truncated):
            info["outcome"] = 0.25 * moved
        return observation, reward, terminated, truncated, info

    def snapshot(self) -> Any:
        return super().snapshot(), tuple(self.executed)

    def restore(self, snapshot: Any) -> None:
        super().restore(snapshot[0])
        self.executed = list(snapshot[1])


def test_a_stuck_branch_pays_what_it_is_worth_by_then(corridor: EnvDefinition, explorer: Explorer) -> None:
    """The last node alone has the reward, and its branch is expanded like any that paid."""
    replies = [["go east", "who knows"], ["go west", "who knows"], ["who knows"]]

    def stumble(history: History, rng: Any) -> str:
        turn = sum(message.role == "assistant" for message in history)
        return f"Action: {rng.choice(replies[min(turn, 2)])}"

    paid: set[tuple[bool, float]] = set()
    for seed in range(6):
        case = replace(a_case(expert_branch=False, max_invalid=2, depth=2), seed=seed)
        policy = ScriptedPolicy(stumble, corridor.normalise_action)
        ((_, tree),) = drive([explorer.start(case)], [Paying(explorer.env())], policy)
        children = children_of(tree)
        for node in tree.nodes:
            moved = any(n.step.action.startswith("go ") for n in path_to(tree, node))
            if children[node.node_id]:
                assert node.step.reward == 0.0
            else:
                assert node.step.truncated
                paid.add((moved, node.step.reward))
        assert tree.stopped == sum(
            branch[0].depth == 1 and len(branch) > 1 and not branch[-1].step.reward for branch in branches_of(tree)
        )
    assert paid == {(True, 0.25), (False, 0.0)}


def replayed(env: CountedEnv) -> TimeLimit:
    """Return an engine that cannot go back, made to by replay, with the step limit."""
    return TimeLimit(Replayed(env), MAX_STEPS)


@settings(max_examples=30)
@given(case=cases, max_nodes=st.sampled_from([20, UNLIMITED]))
def test_replay_costs_one_way_to_each_branch(
    corridor: EnvDefinition, explorer: Explorer, case: Case, max_nodes: int
) -> None:
    """The tree is the same; going back to where a branch leaves costs as many steps as that node is deep, once."""
    case = changed(case, max_nodes=max_nodes)
    plain, _, _ = explorer.grow(case)
    engine = Steps(corridor.make(OPTIONS))
    definition = replace(corridor, replays=True)
    start = lambda env: explore(  # noqa: E731
        env,
        definition,
        explorer.specs[case.task],
        case.settings,
        explorer.experts[case.task],
        seed=case.seed,
    )
    ((_, tree),) = drive([start], [replayed(engine)], explorer.policy())
    assert tree.nodes == plain.nodes
    replays = engine.steps - tree.cost.env_steps
    ways = [node.depth - 1 for node in tree.nodes if node.origin == "expansion"]
    if tree.capped:
        assert replays <= sum(ways) + case.settings.depth  # the branch that did not fit
    else:
        assert replays == sum(ways)


def test_side_by_side_replay_costs_every_step(corridor: EnvDefinition, explorer: Explorer) -> None:
    """Why a definition says that it replays: else every step of every branch is a way from the start."""

    def replays(definition: EnvDefinition) -> int:
        engine, case = Steps(corridor.make(OPTIONS)), a_case(width=3, depth=4)
        start = lambda env: explore(  # noqa: E731
            env, definition, explorer.specs[1], case.settings, explorer.experts[1], seed=0
        )
        ((_, tree),) = drive([start], [replayed(engine)], explorer.policy())
        return engine.steps - tree.cost.env_steps

    assert replays(corridor) > 3 * replays(replace(corridor, replays=True))


def test_other_trees_grow_beside_one_that_replays(corridor: EnvDefinition, explorer: Explorer) -> None:
    definition, policy, case = replace(corridor, replays=True), explorer.policy(), a_case(rollout_temperature=0.0)
    starts = [
        lambda env, task=task: explore(
            env, definition, explorer.specs[task], case.settings, explorer.experts[task], seed=0
        )
        for task in range(4)
    ]
    envs = [replayed(Steps(corridor.make(OPTIONS))) for _ in range(4)]
    found = dict(drive(starts, envs, policy))
    assert found == {task: explorer.grow(replace(case, task=task))[0] for task in range(4)}
    steps = [sum(request.temperature == 0 for request in batch) for batch in policy.batches]
    assert max(steps) == 4  # one of each tree


@pytest.mark.parametrize("count", [1, 2, 3, 12])
def test_trees_do_not_depend_on_the_number_of_engines(explorer: Explorer, count: int) -> None:
    starts = [explorer.start(replace(a_case(), task=task)) for task in range(12)]
    found = dict(drive(starts, [explorer.env() for _ in range(count)], explorer.policy()))
    assert found == {task: explorer.grow(replace(a_case(), task=task))[0] for task in range(12)}


def test_another_seed_gives_another_tree(explorer: Explorer) -> None:
    one, _, _ = explorer.grow(a_case())
    assert explorer.grow(a_case())[0] == one
    assert explorer.grow(replace(a_case(), seed=1))[0].nodes != one.nodes


@pytest.mark.parametrize("step", [0, 3])
def test_a_broken_engine_is_an_error(explorer: Explorer, step: int) -> None:
    """A tree has no field for an error: a training task that cannot be played must be seen."""
    env, fault = explorer.env(), EnvironmentFault("the engine died")
    env.faults = {(explorer.specs[1].task_id, step): fault}
    with pytest.raises(EnvironmentFault, match="the engine died"):
        list(drive([explorer.start(a_case())], [env], explorer.policy()))


class Chooser:
    """Answers with admissible actions in turn, as many as there are seeds."""

    def __init__(self) -> None:
        self.seen: set[tuple[str, ...]] = set()

    def propose(self, requests: Any) -> list[Proposed]:
        return [self._answer(request) for request in requests]

    def _answer(self, request: Propose) -> Proposed:
        self.seen.add(request.admissible)
        replies = ScriptedPolicy(lambda _, rng: f"Action: {rng.choice(request.admissible)}", str)
        (answer,) = replies.propose([request])
        return Proposed(answer.proposals[: len(request.admissible)], answer.prompt_tokens)


def test_admissible_candidates(explorer: Explorer) -> None:
    chooser = Chooser()
    start = explorer.start(a_case(candidates="admissible"))
    ((_, tree),) = drive([start], [explorer.env()], chooser)
    assert all(node.step.valid for node in tree.nodes)
    assert len(chooser.seen) > 3
    assert () not in chooser.seen


def test_requests_carry_the_whole_history(explorer: Explorer) -> None:
    tree, _, policy = explorer.grow(a_case())
    lookup: dict[History, int] = {}
    instruction = Message("system", explorer.corridor.instruction)

    def walk(parent: int, history: History, children: dict[int, list[Node]]) -> None:
        lookup[history] = parent
        for node in children[parent]:
            reply = f"Thought: {node.step.thought}\n" if node.step.thought else ""
            messages = (
                Message("assistant", f"{reply}Action: {node.step.action}"),
                Message("user", node.step.observation),
            )
            walk(node.node_id, (*history, *messages), children)

    walk(ROOT, (instruction, Message("user", tree.observation)), children_of(tree))
    asked = [request.history for batch in policy.batches for request in batch]
    assert set(asked) <= set(lookup)
    assert lookup[asked[0]] == ROOT
