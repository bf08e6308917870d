"""The records that stages exchange: frozen dataclasses, one JSON line each.

Every file of records starts with a header line `{"record": NAME, "schema": N, ...}`; see `qlass.jsonl`. A record never
contains a date, a host name or a run id: equal inputs give equal bytes.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple, TypeAlias

Role: TypeAlias = Literal["system", "user", "assistant"]
Source: TypeAlias = Literal["expert", "explored", "evaluated"]

SCHEMA = 1
"""Version of all record schemas; written into every header line and checked on reading."""


class Message(NamedTuple):
    """One chat message, as in the OpenAI chat format: who speaks, and what."""

    role: Role
    content: str


History: TypeAlias = tuple[Message, ...]
"""The chat messages so far: what the agent knows (the paper's h_t)."""


@dataclass(frozen=True, slots=True)
class TaskSpec:
    """One task instance that an agent must accomplish.

    Attributes:
        task_id: unique over all environments and splits, for example `alfworld/train/00017`; joins all files.
        env: name of the environment.
        split: train, dev, test_seen or test_unseen.
        category: task type inside the environment (ALFWorld has six); rows of the per-category table.
        key: the environment's native key (JSON scalars), enough to build the same task on every machine.
    """

    task_id: str
    env: str
    split: str
    category: str
    key: dict[str, Any]


@dataclass(frozen=True, slots=True)
class Step:
    """One executed action and what the environment answered.

    Attributes:
        thought: free text before the action; empty where the data has none.
        action: the command sent to the environment, as the environment executes it.
        observation: the environment's answer to the action.
        reward: in [0, 1]; zero until the end (outcome reward).
        terminated: the episode ended by the environment's rules.
        truncated: a limit of ours was hit (step limit).
        valid: False when the reply could not be parsed or the environment did not understand the action.
    """

    thought: str
    action: str
    observation: str
    reward: float
    terminated: bool
    truncated: bool
    valid: bool = True


@dataclass(frozen=True, slots=True)
class Trajectory:
    """Ordered steps of one TaskSpec, whoever produced them.

    Attributes:
        task_id: the TaskSpec.
        source: expert, explored or evaluated.
        observation: the first observation (it contains the goal).
        steps: at least one Step.
        outcome: outcome reward in [0, 1], the reward of the final step.
        success: the environment's own success predicate.
    """

    task_id: str
    source: Source
    observation: str
    steps: tuple[Step, ...]
    outcome: float
    success: bool


@dataclass(frozen=True, slots=True)
class Proposal:
    """A reply of the policy that has not been executed.

    Attributes:
        text: the raw reply, without end-of-turn token.
        thought: parsed thought, empty where there is none.
        action: parsed and normalised action; equal actions are the same edge in a tree.
        valid: False when no action could be parsed; `action` is then the stripped reply.
        tokens: generated tokens, the end-of-turn token included.
        logprob: sum of the natural-log probabilities of those tokens at temperature 1.
    """

    text: str
    thought: str
    action: str
    valid: bool
    tokens: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Cost:
    """What an episode or a tree spent. All are counts, except `wall_s` (seconds)."""

    generated_tokens: int = 0
    prompt_tokens: int = 0
    policy_calls: int = 0
    qnet_calls: int = 0
    env_steps: int = 0

    def __add__(self, other: Cost) -> Cost:
        """Add two costs field by field."""
        return Cost(
            self.generated_tokens + other.generated_tokens,
            self.prompt_tokens + other.prompt_tokens,
            self.policy_calls + other.policy_calls,
            self.qnet_calls + other.qnet_calls,
            self.env_steps + other.env_steps,
        )


@dataclass(frozen=True, slots=True)
class Node:
    """One executed step in an exploration tree. It stores its own step only, never the conversation.

    Attributes:
        node_id: position in `ExplorationTree.nodes`; parents come before children.
        parent_id: node_id of the parent, or -1 for a child of the root (the root itself has no Node).
        depth: actions from the root, the root's children have depth 1.
        step: what was executed here.
        origin: who chose the action: expert, expansion (a sampled sibling) or rollout.
        logprob: log probability of the sampled reply (0.0 for expert steps).
    """

    node_id: int
    parent_id: int
    depth: int
    step: Step
    origin: Literal["expert", "expansion", "rollout"]
    logprob: float = 0.0


@dataclass(frozen=True, slots=True)
class ExplorationTree:
    """All branches explored for one TaskSpec.

    Attributes:
        task_id: the TaskSpec.
        observation: the first observation.
        nodes: in order of creation; `nodes[i].node_id == i`.
        redraws: proposals thrown away because a sibling already had that action.
        narrow: expansions that stayed narrower than the width after all redraws.
        stopped: nodes that got the stop signal (unexpanded, on a branch with zero outcome; Figure 2).
        capped: True when the node budget ended the exploration.
        cost: what the exploration spent.
    """

    task_id: str
    observation: str
    nodes: tuple[Node, ...]
    redraws: int
    narrow: int
    stopped: int
    capped: bool
    cost: Cost


@dataclass(frozen=True, slots=True)
class QLabel:
    """The Q-value of one node.

    Attributes:
        task_id: the TaskSpec.
        node_id: the Node.
        parent_id: its parent, or -1; nodes with equal parents are siblings.
        depth: actions from the root.
        q: raw Q-value, gamma^(steps to the best leaf) * reward of that leaf.
        q_norm: min-max normalised inside the tree, in [0, 1].
        average_reward: mean outcome over the leaves below.
        reward: best outcome of a trajectory through this node (the outcome propagated to each step).
        n_leaves: leaves below this node, itself included where it is one.
    """

    task_id: str
    node_id: int
    parent_id: int
    depth: int
    q: float
    q_norm: float
    average_reward: float
    reward: float
    n_leaves: int


@dataclass(frozen=True, slots=True)
class Episode:
    """An evaluated trajectory.

    Attributes:
        task_id: the TaskSpec; every TaskSpec of the panel yields exactly one Episode per method and seed.
        category: the TaskSpec's category.
        method: row of the comparison (base, sft, best_of_n, qlass, ...).
        seed: evaluation seed.
        outcome: outcome reward in [0, 1].
        success: the environment's success predicate.
        observation: the first observation.
        steps: what was executed.
        cost: what it spent, everything included (all N rollouts for Best-of-N).
        error: empty, or why the episode could not be finished; counts as a failure.
        candidates: per step, the (action, q) pairs the method chose from; empty where it did not choose.
    """

    task_id: str
    category: str
    method: str
    seed: int
    outcome: float
    success: bool
    observation: str
    steps: tuple[Step, ...]
    cost: Cost
    error: str = ""
    candidates: tuple[tuple[tuple[str, float], ...], ...] = field(default=())
