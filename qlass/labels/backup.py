"""The Bellman back-up on an exploration tree (Equation 7 of the paper) and the process rewards it is compared with."""

from __future__ import annotations

from collections.abc import Sequence

from qlass.errors import DataError, SettingsError
from qlass.records import ExplorationTree, Node, QLabel

MAX_REWARD = 1.0
"""The highest outcome reward that an environment can give."""


def label_tree(tree: ExplorationTree, gamma: float) -> list[QLabel]:
    """Label every node of a tree.

    q of a leaf is its outcome reward; q of an inner node is its reward (0 before the end) + gamma * the highest q of its
    children. So q = gamma^(steps to the best leaf) * reward of that leaf. `q_norm` is q min-max normalised inside the
    tree; where all q are equal it is 1 if they equal the maximum reward, else 0. See QLabel for the other columns.

    *Differs from the paper:* it leaves the constant tree undefined (0 / 0); released code labels it 0 although all
    may have succeeded.

    Args:
        tree: each branch ends with a terminated or truncated node.
        gamma: discount, in (0, 1].

    Returns:
        One QLabel per node, in the order of the nodes; none for a tree without nodes.

    Raises:
        SettingsError: gamma is out of range.
        DataError: the nodes are not a tree, or a branch is not finished, so that its outcome is unknown.

    Source: QLASS (arXiv 2502.02584), Equation 7 and section 4.2; Figure 4 for average reward and reward.
    """
    if not 0 < gamma <= 1:
        raise SettingsError(f"label.gamma={gamma!r}, allowed is 0 < gamma <= 1")
    _check(tree)
    nodes = tree.nodes
    best_child = [0.0] * len(nodes)
    best_outcome = [0.0] * len(nodes)
    total_outcome = [0.0] * len(nodes)
    n_leaves = [0] * len(nodes)
    q = [0.0] * len(nodes)
    # Parents come before children, so in reverse each node is final when it is met; no recursion, any depth.
    for node in reversed(nodes):
        i, parent = node.node_id, node.parent_id
        if n_leaves[i] == 0:
            best_outcome[i] = total_outcome[i] = node.step.reward
            n_leaves[i] = 1
        q[i] = node.step.reward + gamma * best_child[i]
        if parent >= 0:
            best_child[parent] = max(best_child[parent], q[i])
            best_outcome[parent] = max(best_outcome[parent], best_outcome[i])
            total_outcome[parent] += total_outcome[i]
            n_leaves[parent] += n_leaves[i]
    return [
        QLabel(
            task_id=tree.task_id,
            node_id=node.node_id,
            parent_id=node.parent_id,
            depth=node.depth,
            q=q[node.node_id],
            q_norm=q_norm,
            average_reward=total_outcome[node.node_id] / n_leaves[node.node_id],
            reward=best_outcome[node.node_id],
            n_leaves=n_leaves[node.node_id],
        )
        for node, q_norm in zip(nodes, _min_max(q), strict=True)
    ]


def _min_max(q: Sequence[float]) -> list[float]:
    """Scale to [0, 1]; a constant is 1 where it is the maximum reward, else 0."""
    low, high = min(q, default=0.0), max(q, default=0.0)
    if low == high:
        return [1.0 if low == MAX_REWARD else 0.0] * len(q)
    return [(value - low) / (high - low) for value in q]


def _check(tree: ExplorationTree) -> None:
    """Check what the back-up relies on: ids, order, depths, rewards, and that exactly the leaves are ended."""
    parents = {node.parent_id for node in tree.nodes}
    for position, node in enumerate(tree.nodes):
        problem = _problem(node, position, tree.nodes, is_leaf=position not in parents)
        if problem:
            raise DataError(f"tree {tree.task_id}, node {position}: {problem}; explore this task again")


def _problem(node: Node, position: int, nodes: Sequence[Node], *, is_leaf: bool) -> str:
    """Return what is wrong with a node, empty if nothing."""
    if node.node_id != position or not -1 <= node.parent_id < position:
        return f"node_id={node.node_id}, parent_id={node.parent_id}; parents must come before children"
    depth = 1 if node.parent_id < 0 else nodes[node.parent_id].depth + 1
    if node.depth != depth:
        return f"depth={node.depth}, expected {depth}"
    ended = node.step.terminated or node.step.truncated
    if is_leaf != ended:
        return "has no child, but is neither terminated nor truncated" if is_leaf else "has children after its end"
    if not 0 <= node.step.reward <= MAX_REWARD or (node.step.reward and not is_leaf):
        return f"reward={node.step.reward}; allowed are 0 before the end and 0 to {MAX_REWARD} at the end"
    return ""
