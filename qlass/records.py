"""The records that stages exchange: frozen dataclasses, one JSON line each.

Every file of records starts with a header line `{"record": NAME, "schema": N, ...}`; see `qlass.jsonl`. A record never
contains a date, a host name or a run id: equal inputs give equal bytes.

Code makes records as it makes any dataclass, and nothing is checked then. What is read from a file is checked by
pydantic against the annotations here.
"""

from __future__ import annotations

import json
from dataclasses import Field, dataclass, field
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, TypeAlias

from pydantic import AfterValidator, ConfigDict, GetCoreSchemaHandler
from pydantic_core import CoreSchema

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


class Record:
    """What all records share: how pydantic reads them. It has no fields.

    Reading is strict, because a record that is read differently than it was written is worse than an error: no field
    is unknown or missing (also none with a default), `true` is not a number, and numbers are finite. An integer is
    also a float.
    """

    __slots__ = ()
    __dataclass_fields__: ClassVar[dict[str, Field[Any]]]
    __pydantic_config__: ClassVar[ConfigDict] = ConfigDict(strict=True, extra="forbid", allow_inf_nan=False)

    @classmethod
    def __get_pydantic_core_schema__(cls, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        """Require every field: defaults are for the code that makes records, not for files."""
        schema: Any = handler(source)
        for part in schema["schema"]["fields"]:
            if part["schema"]["type"] == "default":
                part["schema"] = part["schema"]["schema"]
        record: CoreSchema = schema
        return record


def _finite(key: dict[str, Any]) -> dict[str, Any]:
    """Refuse NaN and infinities, which pydantic reads where the annotation is `Any`."""
    try:
        json.dumps(key, allow_nan=False)
    except ValueError:
        raise ValueError("a mapping with finite numbers") from None
    return key


@dataclass(frozen=True, slots=True)
class TaskSpec(Record):
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
    key: Annotated[dict[str, Any], AfterValidator(_finite)]


@dataclass(frozen=True, slots=True)
class Step(Record):
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
class Trajectory(Record):
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
class Proposal(Record):
    """A reply of the policy that has not been executed.

    Attributes:
        text: the raw reply, without end-of-turn token.
        thought: parsed thought, empty where there is none.
        action: parsed and normalised action; equal actions are the same edge in a tree.
        valid: False when no action could be parsed; `action` is then the stripped reply.
        tokens: generated tokens, the end-of-turn token included.
        logprob: sum of the natural-log probabilities of those tokens at temperature 1 (0.0 where a server is not asked).
    """

    text: str
    thought: str
    action: str
    valid: bool
    tokens: int
    logprob: float


@dataclass(frozen=True, slots=True)
class Cost(Record):
    """What an episode or a tree spent. All are counts."""

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
class Node(Record):
    """One executed step in an exploration tree. It stores its own step only, never the conversation.

    Attributes:
        node_id: position in `ExplorationTree.nodes`; parents come before children.
        parent_id: node_id of the parent, or -1 for a child of the root (the root itself has no Node).
        depth: actions from the root, the root's children have depth 1.
        step: what was executed here.
        origin: who chose the action: expert, expansion (a sampled sibling) or rollout.
        logprob: log probability of the sampled reply (0.0 for expert steps, and where a server is not asked for it).
    """

    node_id: int
    parent_id: int
    depth: int
    step: Step
    origin: Literal["expert", "expansion", "rollout"]
    logprob: float = 0.0


@dataclass(frozen=True, slots=True)
class ExplorationTree(Record):
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
class QLabel(Record):
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
class Episode(Record):
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


@dataclass(frozen=True, slots=True)
class Demonstration(Record):
    """What became of one training task in the stage `expert`; it lies in work folders only.

    Attributes:
        task_id: the TaskSpec.
        trajectory: what the expert did, None where the environment could not play the task.
        error: empty, or why it could not.
    """

    task_id: str
    trajectory: Trajectory | None
    error: str = ""


@dataclass(frozen=True, slots=True)
class Exploration(Record):
    """What became of one training task in the stage `explore`; it lies in work folders only.

    Attributes:
        task_id: the TaskSpec.
        tree: what was explored, None where the environment could not play the task.
        error: empty, or why it could not.
    """

    task_id: str
    tree: ExplorationTree | None
    error: str = ""
