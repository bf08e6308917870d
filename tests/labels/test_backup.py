"""The Bellman back-up: exact tables, and what must hold on every tree."""

from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlass.envs import get_definition, make_env
from qlass.envs.corridor import optimal_q
from qlass.errors import DataError, SettingsError
from qlass.jsonl import read_json, to_json, write_records
from qlass.labels import label_tree
from qlass.records import Cost, ExplorationTree, Node, Step

GAMMA = 0.9
GOLDEN = Path(__file__).parent / "golden"


def tree_of(parents, rewards):
    """Build a tree: parent of each node (-1 for the root), reward of each leaf by node_id."""
    depths, nodes = [], []
    for i, parent in enumerate(parents):
        depths.append(1 if parent < 0 else depths[parent] + 1)
        leaf = i not in parents
        step = Step("", f"action {i}", "", rewards[i] if leaf else 0.0, terminated=leaf, truncated=False)
        nodes.append(Node(i, parent, depths[i], step, "rollout"))
    return ExplorationTree("corridor/train/00000", "o", tuple(nodes), 0, 0, 0, False, Cost())


@st.composite
def trees(draw, rewards=st.sampled_from([0.0, 0.25, 0.5, 1.0])):
    parents = [-1]
    for i in range(1, draw(st.integers(1, 25))):
        parents.append(draw(st.integers(-1, i - 1)))
    return tree_of(parents, [draw(rewards) for _ in parents])


gammas = st.floats(0.01, 1.0)


def leaves_below(tree, node_id):
    """Return (steps to the leaf, reward) of the leaves below a node, by walking up from each leaf."""
    parents = {node.parent_id for node in tree.nodes}
    found = []
    for leaf in tree.nodes:
        if leaf.node_id not in parents:
            above = leaf.node_id
            while above not in (node_id, -1):
                above = tree.nodes[above].parent_id
            if above == node_id:
                found.append((leaf.depth - tree.nodes[node_id].depth, leaf.step.reward))
    return found


def test_worked_example():
    # 0 ┬ 1 ─ 2 (reward 1)         the long way
    #   └ 3 (reward 0.5)           a short way to less
    # 4 (reward 0)                 a dead end beside them
    labels = label_tree(tree_of([-1, 0, 1, 0, -1], [0, 0, 1.0, 0.5, 0.0]), GAMMA)
    assert [label.q for label in labels] == pytest.approx([0.81, 0.9, 1.0, 0.5, 0.0], abs=1e-15)
    assert [label.q_norm for label in labels] == pytest.approx([0.81, 0.9, 1.0, 0.5, 0.0], abs=1e-15)
    assert [label.average_reward for label in labels] == [0.75, 1.0, 1.0, 0.5, 0.0]
    assert [label.reward for label in labels] == [1.0, 1.0, 1.0, 0.5, 0.0]
    assert [label.n_leaves for label in labels] == [2, 1, 1, 1, 1]
    assert [label.node_id for label in labels] == [0, 1, 2, 3, 4]
    assert [label.parent_id for label in labels] == [-1, 0, 1, 0, -1]
    assert [label.depth for label in labels] == [1, 2, 3, 2, 1]
    assert {label.task_id for label in labels} == {"corridor/train/00000"}


def test_min_max_stretches_to_the_whole_range():
    labels = label_tree(tree_of([-1, 0, 1], [0, 0, 1.0]), 0.5)
    assert [label.q for label in labels] == [0.25, 0.5, 1.0]
    assert [label.q_norm for label in labels] == [0.0, pytest.approx(1 / 3), 1.0]


@pytest.mark.parametrize(
    ("parents", "reward", "gamma", "expected"),
    [
        ([-1, -1], 1.0, 0.9, 1.0),  # all succeeded: never 0
        ([-1, 0, 1], 1.0, 1.0, 1.0),
        ([-1, -1], 0.5, 0.9, 0.0),
        ([-1, 0, 0, -1], 0.0, 0.9, 0.0),  # all failed, at any depth
    ],
)
def test_constant_trees(parents, reward, gamma, expected):
    labels = label_tree(tree_of(parents, [reward] * len(parents)), gamma)
    assert {label.q_norm for label in labels} == {expected}


def test_a_tree_without_nodes_has_no_labels():
    assert label_tree(tree_of([], []), GAMMA) == []


def test_depth_is_not_limited_by_recursion():
    labels = label_tree(tree_of([-1, *range(4999)], [1.0] * 5000), 1.0)
    assert {label.q for label in labels} == {1.0}


@given(trees(), gammas)
def test_a_leaf_has_its_reward(tree, gamma):
    parents = {node.parent_id for node in tree.nodes}
    for node, label in zip(tree.nodes, label_tree(tree, gamma), strict=True):
        if node.node_id not in parents:
            assert label.q == label.reward == label.average_reward == node.step.reward
            assert label.n_leaves == 1


@given(trees(), gammas)
def test_q_is_the_best_discounted_leaf(tree, gamma):
    for label in label_tree(tree, gamma):
        leaves = leaves_below(tree, label.node_id)
        assert label.q == pytest.approx(max(gamma**steps * reward for steps, reward in leaves))
        assert label.reward == max(reward for _, reward in leaves)
        assert label.average_reward == pytest.approx(sum(reward for _, reward in leaves) / len(leaves))
        assert label.n_leaves == len(leaves)


@given(trees())
def test_without_discount_q_is_the_best_leaf(tree):
    for label in label_tree(tree, 1.0):
        assert label.q == label.reward


@given(trees(), gammas, st.data())
def test_monotone_in_every_leaf(tree, gamma, data):
    parents = {node.parent_id for node in tree.nodes}
    leaf = data.draw(st.sampled_from([node for node in tree.nodes if node.node_id not in parents]))
    better = replace(leaf, step=replace(leaf.step, reward=data.draw(st.floats(leaf.step.reward, 1.0))))
    nodes = tuple(better if node is leaf else node for node in tree.nodes)
    for before, after in zip(label_tree(tree, gamma), label_tree(replace(tree, nodes=nodes), gamma), strict=True):
        assert after.q >= before.q
        assert after.reward >= before.reward
        assert after.average_reward >= before.average_reward - 1e-12


@given(trees(), gammas, st.randoms(use_true_random=False))
def test_the_order_of_children_does_not_matter(tree, gamma, rng):
    # Renumber the nodes in another order in which parents still come before children.
    order, waiting = [], [node for node in tree.nodes if node.parent_id < 0]
    while waiting:
        node = waiting.pop(rng.randrange(len(waiting)))
        order.append(node)
        waiting += [child for child in tree.nodes if child.parent_id == node.node_id]
    new_id = {node.node_id: i for i, node in enumerate(order)} | {-1: -1}
    nodes = tuple(replace(n, node_id=new_id[n.node_id], parent_id=new_id[n.parent_id]) for n in order)
    shuffled = label_tree(replace(tree, nodes=nodes), gamma)
    for label in label_tree(tree, gamma):
        other = shuffled[new_id[label.node_id]]
        assert (other.q, other.q_norm, other.reward, other.n_leaves) == (
            label.q, label.q_norm, label.reward, label.n_leaves,
        )  # fmt: skip
        assert other.average_reward == pytest.approx(label.average_reward)


@given(trees(), gammas)
def test_q_norm_keeps_the_order_and_fills_the_range(tree, gamma):
    labels = label_tree(tree, gamma)
    assert all(0.0 <= label.q_norm <= 1.0 for label in labels)
    for one in labels:
        for other in labels:
            if one.q <= other.q:
                assert one.q_norm <= other.q_norm
    if len({label.q for label in labels}) > 1:
        assert {0.0, 1.0} <= {label.q_norm for label in labels}


@pytest.mark.parametrize("gamma", [0.0, -0.5, 1.1, float("nan")])
def test_gamma_out_of_range(gamma):
    with pytest.raises(SettingsError, match=r"label\.gamma"):
        label_tree(tree_of([-1], [1.0]), gamma)


GOOD = tree_of([-1, 0], [0, 1.0])


@pytest.mark.parametrize(
    ("node_id", "change", "message"),
    [
        (1, {"node_id": 5}, "parents must come before children"),
        (0, {"parent_id": 1}, "parents must come before children"),
        (0, {"parent_id": -2}, "parents must come before children"),
        (1, {"depth": 3}, "depth=3, expected 2"),
        (1, {"terminated": False}, "has no child, but is neither terminated nor truncated"),
        (0, {"truncated": True}, "has children after its end"),
        (0, {"reward": 0.5}, r"reward=0\.5"),
        (1, {"reward": 1.5}, r"reward=1\.5"),
        (1, {"reward": float("nan")}, "reward=nan"),
    ],
)
def test_what_is_no_finished_tree_is_refused(node_id, change, message):
    nodes = list(GOOD.nodes)
    on_step = {key: value for key, value in change.items() if key in ("terminated", "truncated", "reward")}
    on_node = {key: value for key, value in change.items() if key not in on_step}
    nodes[node_id] = replace(nodes[node_id], step=replace(nodes[node_id].step, **on_step), **on_node)
    with pytest.raises(DataError, match=f"tree corridor/train/00000, node {node_id}: .*{message}"):
        label_tree(replace(GOOD, nodes=tuple(nodes)), GAMMA)


def grow(env, spec):
    """Build the complete tree of a corridor: every admissible action at every node."""
    nodes, paths = [], []
    observation, info = env.reset(spec)
    open_nodes = [(-1, 0, env.snapshot(), info["admissible_actions"], ())]
    while open_nodes:
        parent, depth, snapshot, actions, path = open_nodes.pop(0)
        for action in actions:
            env.restore(snapshot)
            obs, reward, terminated, truncated, info = env.step(action)
            step = Step("", action, obs, reward, terminated, truncated)
            nodes.append(Node(len(nodes), parent, depth + 1, step, "expansion"))
            paths.append((*path, action))
            if not (terminated or truncated):
                open_nodes.append(
                    (nodes[-1].node_id, depth + 1, env.snapshot(), info["admissible_actions"], paths[-1])
                )
    return ExplorationTree(spec.task_id, observation, tuple(nodes), 0, 0, 0, False, Cost()), paths


def test_the_golden_tree_and_its_labels(tmp_path):
    # Committed bytes: a change here is a change of the format (raise records.SCHEMA) or of every published label.
    definition, options = get_definition("corridor"), {"length": 3, "rooms": 2}
    tree, _ = grow(make_env(definition, options, 3), next(definition.panels(options, "train", 0)))
    write_records(tmp_path / "trees.jsonl", [tree], ExplorationTree)
    assert (tmp_path / "trees.jsonl").read_bytes() == (GOLDEN / "trees.jsonl").read_bytes()
    labels = [to_json(label) for label in label_tree(tree, GAMMA)]
    assert labels == read_json(GOLDEN / "labels.json")


@pytest.mark.parametrize("gamma", [0.9, 1.0])
def test_on_a_complete_tree_q_is_the_optimal_q(gamma):
    # The back-up and `optimal_q` know nothing of each other; on a tree with all actions they must agree.
    definition, max_steps = get_definition("corridor"), 6
    options = {"length": 3, "rooms": 2}
    env = make_env(definition, options, max_steps)
    specs = definition.panels(options, "train", 0)
    for spec in (next(specs) for _ in definition.categories):
        tree, paths = grow(env, spec)
        for label, path in zip(label_tree(tree, gamma), paths, strict=True):
            assert label.q == pytest.approx(optimal_q(spec, path, gamma, max_steps)), path
