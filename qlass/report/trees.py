"""Exploration trees: what they hold together, and the one tree worth a picture."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from qlass.errors import DataError
from qlass.jsonl import iter_records
from qlass.labels.table import iter_labels
from qlass.records import ExplorationTree, Node
from qlass.report.colour import ink_on, q_colour

ROOT = -1

_COMFORTABLE_NODES, _COMFORTABLE_BRANCHES = 150, 16
"""A tree of at most this size can be read on one screen."""


@dataclass(slots=True)
class TreeStatistics:
    """Sums over all trees.

    Attributes:
        trees: trees.
        nodes: executed steps.
        branches: paths from the root to a leaf.
        rewarded: branches that ended with a reward above zero.
        mixed: trees with both rewarded and unrewarded branches: only these teach the QNet to rank.
        solved: trees with at least one rewarded branch.
        redraws: proposals thrown away because a sibling had that action.
        narrow: expansions that stayed narrower than the width.
        stopped: nodes that got the stop signal.
        capped: trees ended by the node budget.
        generated_tokens: tokens the policy wrote.
        env_steps: environment steps.
        lengths: (rewarded, unrewarded) branches by number of actions.
    """

    trees: int = 0
    nodes: int = 0
    branches: int = 0
    rewarded: int = 0
    mixed: int = 0
    solved: int = 0
    redraws: int = 0
    narrow: int = 0
    stopped: int = 0
    capped: int = 0
    generated_tokens: int = 0
    env_steps: int = 0
    lengths: dict[int, tuple[int, int]] = field(default_factory=dict)

    def add(self, tree: ExplorationTree) -> None:
        """Count one more tree."""
        ends = leaves(tree)
        rewarded = sum(leaf.step.reward > 0 for leaf in ends)
        self.trees += 1
        self.nodes += len(tree.nodes)
        self.branches += len(ends)
        self.rewarded += rewarded
        self.mixed += 0 < rewarded < len(ends)
        self.solved += rewarded > 0
        self.redraws += tree.redraws
        self.narrow += tree.narrow
        self.stopped += tree.stopped
        self.capped += tree.capped
        self.generated_tokens += tree.cost.generated_tokens
        self.env_steps += tree.cost.env_steps
        for leaf in ends:
            good, bad = self.lengths.get(leaf.depth, (0, 0))
            hit = leaf.step.reward > 0
            self.lengths[leaf.depth] = (good + hit, bad + (not hit))


@dataclass(frozen=True, slots=True)
class NodeView:
    """A node as it is shown: the record, and its Q-value where labels exist.

    Attributes:
        node: the record.
        q: raw Q-value, None without labels.
        q_norm: normalised inside the tree, None without labels.
        colour: `#rrggbb` of q_norm.
        ink: black or white, readable on the colour.
        leaf: True where the branch ends.
        best: True on the path to the best leaf.
    """

    node: Node
    q: float | None
    q_norm: float | None
    colour: str
    ink: str
    leaf: bool
    best: bool


@dataclass(frozen=True, slots=True)
class Segment:
    """A part of a branch without a fork, and the segments that fork from its end.

    Attributes:
        views: the nodes, at least one.
        forks: what follows; empty at a leaf.
        branches: leaves below.
        rewarded: leaves below with a reward above zero.
    """

    views: tuple[NodeView, ...]
    forks: tuple[Segment, ...]
    branches: int
    rewarded: int


def read_trees(path: Path) -> tuple[TreeStatistics, ExplorationTree | None]:
    """Read all trees, one in memory at a time; return their statistics and the most informative tree.

    Raises:
        DataError: the file is corrupt.
    """
    statistics, best, best_score = TreeStatistics(), None, -1.0
    for tree in iter_records(path, ExplorationTree):
        statistics.add(tree)
        score = informative(tree)
        if best is None or (-score, tree.task_id) < (-best_score, best.task_id):
            best, best_score = tree, score
    return statistics, best


def informative(tree: ExplorationTree) -> float:
    """Score in [0, 1] how much a reader sees in a tree: mixed outcomes, several branches, a size that fits a screen."""
    ends = leaves(tree)
    if not ends:
        return 0.0
    share = sum(leaf.step.reward > 0 for leaf in ends) / len(ends)
    mixed = 0.1 + 0.9 * 4 * share * (1 - share)
    size = min(1.0, _COMFORTABLE_NODES / len(tree.nodes)) * min(1.0, _COMFORTABLE_BRANCHES / len(ends))
    variety = min(1.0, math.log2(1 + len(ends)) / math.log2(1 + _COMFORTABLE_BRANCHES / 2))
    return mixed * size * variety


def leaves(tree: ExplorationTree) -> list[Node]:
    """Return the nodes without children."""
    parents = {node.parent_id for node in tree.nodes}
    return [node for node in tree.nodes if node.node_id not in parents]


def read_q(path: Path, task_id: str) -> dict[int, tuple[float, float]]:
    """Return (q, q_norm) by node id for one tree.

    Raises:
        DataError: the file is not a table of Q-values.
    """
    return {label.node_id: (label.q, label.q_norm) for label in iter_labels(path) if label.task_id == task_id}


def view_tree(tree: ExplorationTree, q_values: Mapping[int, tuple[float, float]]) -> tuple[Segment, ...]:
    """Return the tree as segments, children in order of creation.

    Raises:
        DataError: labels exist, but not for every node.
    """
    lacking = [node.node_id for node in tree.nodes if q_values and node.node_id not in q_values]
    if lacking:
        raise DataError(f"labels of {tree.task_id}: no Q-value for the nodes {lacking[:5]}; label again")
    children: dict[int, list[Node]] = {}
    for node in tree.nodes:
        children.setdefault(node.parent_id, []).append(node)
    path = _best_path(tree)
    views = {
        node.node_id: _view(node, q_values, node.node_id in path, node.node_id not in children) for node in tree.nodes
    }
    return tuple(_segment(node, children, views) for node in children.get(ROOT, []))


def _best_path(tree: ExplorationTree) -> set[int]:
    """Return the ids on the way to the leaf with the highest reward, the shortest way among equals."""
    leaf = min(leaves(tree), key=lambda node: (-node.step.reward, node.depth, node.node_id))
    path = {leaf.node_id}
    while leaf.parent_id != ROOT:
        leaf = tree.nodes[leaf.parent_id]
        path.add(leaf.node_id)
    return path


def _view(node: Node, q_values: Mapping[int, tuple[float, float]], best: bool, leaf: bool) -> NodeView:
    """Add colour to a node; grey where there is no Q-value."""
    q, q_norm = q_values.get(node.node_id, (None, None))
    colour = "#8a8f98" if q_norm is None else q_colour(q_norm)
    return NodeView(node, q, q_norm, colour, ink_on(colour), leaf, best)


def _segment(first: Node, children: Mapping[int, Sequence[Node]], views: Mapping[int, NodeView]) -> Segment:
    """Collect nodes until the next fork or leaf, then recurse; forks nest at most as deep as expansion went."""
    nodes, node = [first], first
    while len(below := children.get(node.node_id, ())) == 1:
        node = below[0]
        nodes.append(node)
    forks = tuple(_segment(child, children, views) for child in below)
    own = not forks
    return Segment(
        views=tuple(views[node.node_id] for node in nodes),
        forks=forks,
        branches=own + sum(fork.branches for fork in forks),
        rewarded=(own and nodes[-1].step.reward > 0) + sum(fork.rewarded for fork in forks),
    )
