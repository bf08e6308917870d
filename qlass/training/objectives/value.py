"""The objective of the QNet: squared error of Q-values at the ends of actions (paper section 3.3).

Training rows: one per root-to-leaf path, every labelled node supervised exactly once. The state of a causal model at an
action's end does not depend on what follows. So one pass over a path gives the values of all its nodes, and a node that
several paths share needs to be read in one of them only: gradients equal those of one row per node, at a fifth of the tokens.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import ValidationInfo, field_validator

from qlass.errors import DataError, SettingsError
from qlass.prompts import ChatFormat, TrainingRow, history_of
from qlass.records import ExplorationTree, Message, Node, QLabel
from qlass.seeds import derive_seed
from qlass.settings import Depth, Fraction, HiddenUnits, NonNegative, Tasks
from qlass.training.core.rows import TrainRow, make_row
from qlass.training.core.settings import TrainSettings
from qlass.training.objectives.base import Objective

if TYPE_CHECKING:
    from qlass.training.core.jobs import TrainJob
    from qlass.training.core.losses import ValueLoss


class QNetSettings(TrainSettings):
    """Stage `qnet`: how the QNet learns the values of actions; there are no adapters."""

    head_width: HiddenUnits
    """Width of the value head, the small network that turns a hidden state into a Q-value."""
    trunk: Literal["own", "policy"]
    """`own`: the QNet is a model of its own that starts as the policy (the paper). `policy`: the policy's trunk stays
    as it is and only the value head learns; Q-values then cost next to nothing when the policy's replies are drawn."""
    target: Literal["q_norm", "q"]
    """Which Q-value is learnt where `label.q_type` is q: `q_norm` is scaled to [0, 1] inside each tree, `q` is not."""
    supervise: Literal["action_end", "every_token"]
    """Where a label stands. `action_end`: on the last token of its action (the paper); `every_token`: on all tokens
    up to there (the released code)."""
    tail: Depth | None
    """Steps kept of a failed branch below its last choice; null: all."""
    observation_loss: NonNegative
    """Weight of predicting the observations that follow the actions; 0: the paper. It is what makes a small trunk
    tell actions that will be refused (joint objective as in Cobbe et al., arXiv 2110.14168). Above 0 it needs
    `supervise: action_end` and `trunk: own`."""
    tasks: Tasks | None
    """Explored tasks to learn from, the first ones of those not kept for validation; null: all of them."""
    validation_fraction: Fraction
    """Share of the explored tasks that is kept for validation."""

    @field_validator("observation_loss")
    @classmethod
    def _where_it_can_be_learnt(cls, weight: float, info: ValidationInfo) -> float:
        if weight and info.data.get("supervise") != "action_end":
            raise ValueError("0, or any weight with supervise 'action_end'")
        if weight and info.data.get("trunk") == "policy":
            raise ValueError("0, or any weight with trunk 'own': no other weight could learn from it")
        return weight


Column = Literal["q", "q_norm", "average_reward", "reward"]
"""A field of QLabel that can be learnt."""


def label_column(q_type: str, target: Literal["q_norm", "q"]) -> Column:
    """Return the field of QLabel that the QNet learns.

    Args:
        q_type: `label.q_type`: q, average_reward or reward (Figure 4 compares them).
        target: `qnet.target`; matters for q only.

    Raises:
        SettingsError: `q_type` is another word.
    """
    columns: dict[str, Column] = {"q": target, "average_reward": "average_reward", "reward": "reward"}
    if q_type not in columns:
        raise SettingsError(f"label.q_type: found {q_type!r}, allowed are {', '.join(columns)}")
    return columns[q_type]


Labels = Mapping[tuple[str, int], float]
"""(task_id, node_id) -> target."""

ROOT = -1


@dataclass(frozen=True, slots=True)
class PathRow:
    """A training row and the nodes it supervises.

    Attributes:
        task_id: of the tree.
        node_ids: the nodes that are supervised here, root side first; with `action_end` one per position of the row.
        row: what is trained.
    """

    task_id: str
    node_ids: tuple[int, ...]
    row: TrainRow


@dataclass(frozen=True, slots=True)
class _Path:
    """A path, encoded: reply i of `nodes[i]` begins at `starts[i]`, and its text ends at `ends[i]`.

    Behind `ids` stands `after`, the last node's observation. `shown` are the positions of what is not a reply.
    """

    nodes: tuple[Node, ...]
    ids: list[int]
    starts: list[int]
    ends: list[int]
    after: tuple[int, ...]
    shown: list[int]


def label_values(labels: Iterable[QLabel], column: Column) -> dict[tuple[str, int], float]:
    """Return the targets by (task_id, node_id)."""
    return {(label.task_id, label.node_id): float(getattr(label, column)) for label in labels}


def validation_tasks(task_ids: Iterable[str], fraction: float) -> frozenset[str]:
    """Return the tasks kept for validation: those with the smallest hashes, so that no seed and no order matters.

    At least one task is kept, and at least one is left.

    Raises:
        DataError: fewer than two tasks.
    """
    ordered = sorted(set(task_ids), key=lambda task_id: (derive_seed("validation", task_id), task_id))
    if len(ordered) < 2:
        raise DataError(f"qnet: {len(ordered)} tasks with trees; at least 2 are needed to keep one for validation")
    return frozenset(ordered[: min(max(1, math.ceil(fraction * len(ordered))), len(ordered) - 1)])


def tree_rows(
    tree: ExplorationTree,
    labels: Labels,
    *,
    instruction: str,
    chat: ChatFormat,
    max_prompt: int,
    supervise: Literal["action_end", "every_token"] = "action_end",
    tail: int | None = None,
    observations: bool = False,
) -> list[PathRow]:
    """Return the rows of a tree.

    A node whose own history is too long for `max_prompt` gets a row of its own, truncated exactly as it will be when
    the QNet scores it; the others share path rows that are never truncated.

    Args:
        tree: any number of nodes.
        labels: has every node of the tree.
        instruction: the environment's instruction text.
        chat: chat format of the backbone.
        max_prompt: tokens that a history may have, the same as when the QNet scores; see `qlass.prompts.prompt_limit`.
        supervise: `every_token` puts each node's label on all tokens up to its action, as the released code does (the
            mean over its tokens counts as one node).
        tail: steps that are kept of a branch with outcome 0 below its last choice between siblings; None keeps all.
            *Differs from the paper*, which has no such limit: failing branches run to the step limit and would make up
            most tokens, all with the label 0.
        observations: also mark the observations that follow the nodes, each once, as tokens to predict (with `action_end` only;
            a node after whose observation the history would be cut has none).

    Raises:
        ValueError: observations are to be predicted with `every_token`.
        DataError: a node has no label; names the task and the node.
    """
    if observations and supervise != "action_end":
        raise ValueError(f"observations are predicted with supervise='action_end' only, not with {supervise!r}")
    values = {node.node_id: _value(labels, tree.task_id, node.node_id) for node in tree.nodes}
    paths = _Paths(tree, instruction, chat, max_prompt, tail)
    shared, alone = paths.cover()
    if supervise == "action_end":
        rows = list(_action_end_rows(shared, values, max_prompt if observations else None))
        rows += [_node_row(path, values, every_token=False, observations=observations) for path in alone]
    else:
        rows = list(_every_token_rows(shared, values))
        rows += [_node_row(path, values, every_token=True) for path in alone]
    return [PathRow(tree.task_id, node_ids, row) for node_ids, row in rows]


class _Paths:
    """The paths of a tree that together hold every node."""

    def __init__(
        self, tree: ExplorationTree, instruction: str, chat: ChatFormat, max_prompt: int, tail: int | None
    ) -> None:
        self._tree, self._instruction, self._chat, self._max_prompt = tree, instruction, chat, max_prompt
        self._tail = tail
        self._children = Counter(node.parent_id for node in tree.nodes)

    def cover(self) -> tuple[list[_Path], list[_Path]]:
        """Return the paths that fit, longest branches whole, and the paths of single nodes that do not fit."""
        inner = {node.parent_id for node in self._tree.nodes}
        shared: dict[int, _Path] = {}
        alone: dict[int, _Path] = {}
        for leaf in self._tree.nodes:
            if leaf.node_id in inner:
                continue
            nodes = self._cut(self._to(leaf))
            while nodes and nodes[-1].node_id not in alone and nodes[-1].node_id not in shared:
                encoded = self._encode(nodes)
                path = _path(nodes, encoded, self._after(nodes[-1]))
                if -1 not in encoded.action_ends:
                    shared[nodes[-1].node_id] = path
                    break
                alone[nodes[-1].node_id] = path
                nodes = nodes[:-1]
        return list(shared.values()), list(alone.values())

    def _to(self, leaf: Node) -> tuple[Node, ...]:
        """Return the nodes from the root's child to `leaf`."""
        nodes = [leaf]
        while nodes[-1].parent_id != ROOT:
            nodes.append(self._tree.nodes[nodes[-1].parent_id])
        return tuple(reversed(nodes))

    def _cut(self, nodes: tuple[Node, ...]) -> tuple[Node, ...]:
        """Shorten a branch that failed to `tail` steps below its last choice."""
        if self._tail is None or nodes[-1].step.reward > 0:
            return nodes
        choices = [number for number, node in enumerate(nodes) if self._children[node.parent_id] > 1]
        return nodes[: (choices[-1] if choices else 0) + 1 + self._tail]

    def _encode(self, nodes: Sequence[Node]) -> TrainingRow:
        """Encode the conversation that ends with the last node's reply."""
        history = history_of(self._instruction, self._tree.observation, [node.step for node in nodes])
        return self._chat.row(history[:-1], self._max_prompt)

    def _after(self, node: Node) -> tuple[int, ...]:
        """Encode the observation that a node led to."""
        return next(self._chat.segments((Message("user", node.step.observation),)))


def _path(nodes: tuple[Node, ...], encoded: TrainingRow, after: tuple[int, ...]) -> _Path:
    mask = encoded.assistant_mask
    starts = [index for index, value in enumerate(mask) if value and (index == 0 or not mask[index - 1])]
    missing = len(nodes) - len(starts)
    shown = [index for index, value in enumerate(mask) if not value]
    return _Path(nodes, encoded.ids, [-1] * missing + starts, encoded.action_ends, after, shown)


def _action_end_rows(
    paths: Sequence[_Path], values: Mapping[int, float], room: int | None
) -> Iterator[tuple[tuple[int, ...], TrainRow]]:
    """Yield a row per path; a node is supervised in the first path that holds it, and so is its observation.

    Args:
        paths: of one tree.
        values: by node.
        room: tokens that a row may have with its last observation; None: observations are not to be predicted.
    """
    seen: set[int] = set()
    for path in paths:
        new = [number for number, node in enumerate(path.nodes) if node.node_id not in seen]
        node_ids = tuple(path.nodes[number].node_id for number in new)
        if new:
            ids, observed = path.ids, None
            if room is not None:
                observed = [position for position in path.shown if position > path.ends[new[0]]]
                if len(ids) + len(path.after) <= room:
                    observed += range(len(ids), len(ids) + len(path.after))
                    ids = [*ids, *path.after]
            ends = [path.ends[number] for number in new]
            yield node_ids, make_row(ids, ends, [values[node] for node in node_ids], observed=observed)
        seen.update(node_ids)


def _every_token_rows(
    paths: Sequence[_Path], values: Mapping[int, float]
) -> Iterator[tuple[tuple[int, ...], TrainRow]]:
    """Yield a row per path with targets on all tokens.

    A token that precedes several nodes' actions carries the sum of their weights (one over each node's tokens) and the
    weighted mean of their values: the same gradient as one row per node.
    """
    weight, weighted = _below(paths, values)
    seen: set[tuple[str, int]] = set()
    for path in paths:
        positions: list[int] = []
        sources: list[tuple[str, int]] = []
        for number, node in enumerate(path.nodes):
            begin = path.ends[number - 1] + 1 if number else 0
            # Siblings share what they answer to, not their replies.
            for key, first, last in (
                (("context", node.parent_id), begin, path.starts[number]),
                (("reply", node.node_id), path.starts[number], path.ends[number] + 1),
            ):
                if key not in seen:
                    seen.add(key)
                    positions += range(first, last)
                    sources += [key] * (last - first)
        if positions:
            targets = [weighted[source] / weight[source] for source in sources]
            node_ids = tuple(dict.fromkeys(number for kind, number in sources if kind == "reply"))
            yield node_ids, make_row(path.ids, positions, targets, [weight[source] for source in sources])


def _below(
    paths: Sequence[_Path], values: Mapping[int, float]
) -> tuple[dict[tuple[str, int], float], dict[tuple[str, int], float]]:
    """Return, per stretch of tokens, the summed weights and weighted values of the nodes whose rows contain it."""
    weight: dict[tuple[str, int], float] = {}
    weighted: dict[tuple[str, int], float] = {}
    done: set[int] = set()
    for path in paths:
        for number, node in enumerate(path.nodes):
            if node.node_id in done:
                continue
            done.add(node.node_id)
            own = 1.0 / (path.ends[number] + 1)
            for above in path.nodes[: number + 1]:
                for key in (("reply", above.node_id), ("context", above.parent_id)):
                    weight[key] = weight.get(key, 0.0) + own
                    weighted[key] = weighted.get(key, 0.0) + own * values[node.node_id]
    return weight, weighted


def _node_row(
    path: _Path, values: Mapping[int, float], *, every_token: bool, observations: bool = False
) -> tuple[tuple[int, ...], TrainRow]:
    """Return the row that supervises the last node of a path alone."""
    node_id, end = path.nodes[-1].node_id, path.ends[-1]
    positions = list(range(end + 1)) if every_token else [end]
    weights = [1.0 / len(positions)] * len(positions)
    targets = [values[node_id]] * len(positions)
    return (node_id,), make_row(path.ids, positions, targets, weights, [] if observations else None)


def _value(labels: Labels, task_id: str, node_id: int) -> float:
    value = labels.get((task_id, node_id))
    if value is None or not math.isfinite(value):
        raise DataError(f"{task_id}: node {node_id} has the label {value}; run the stage `label` on these trees again")
    return value


def build_module(job: TrainJob[QNetSettings]) -> ValueLoss:
    """Build the QNet with its loss, ready to train."""
    from qlass.models.folders import load_model
    from qlass.models.precision import pick_device
    from qlass.models.qnet import QNet
    from qlass.training.core.attention import choose_attention
    from qlass.training.core.losses import ValueLoss

    given = job.settings
    policy: Any = load_model(Path(job.policy_dir))
    choose_attention(policy.base_model, pick_device(job.device))
    policy.base_model.requires_grad_(given.trunk == "own")
    lm_head = policy.get_output_embeddings() if given.observation_loss else None
    qnet = QNet(policy.base_model, given.head_width).train()
    return ValueLoss(qnet, job.precision, lm_head, given.observation_loss)


OBJECTIVE = Objective(settings=QNetSettings, build_module=build_module)
