import random
import re
from dataclasses import replace

import pytest
import torch

from qlass.errors import DataError
from qlass.models.qnet import QNet
from qlass.prompts import history_of, load_chat_format
from qlass.records import Cost, ExplorationTree, Node, QLabel
from qlass.training.core.collate import collate
from qlass.training.core.losses import ValueLoss
from qlass.training.core.rows import make_row
from qlass.training.objectives.value import PathRow, label_values, tree_rows, validation_tasks
from tests.training import tiny

ACTIONS = ("go to left", "go to right", "take key", "open door")
LONGEST_REPLY = 9
"""Tokens of a reply with one of these actions."""


def tree(edges: list[tuple[int, str]], task_id: str = "t") -> ExplorationTree:
    """A tree from (parent, action) pairs."""
    nodes: list[Node] = []
    for number, (parent, action) in enumerate(edges):
        depth = 1 if parent < 0 else nodes[parent].depth + 1
        nodes.append(Node(number, parent, depth, tiny.step(action, f"see {number % 10}"), "expansion"))
    return ExplorationTree(task_id, "see door 1", tuple(nodes), 0, 0, 0, False, Cost())


def random_tree(size: int, seed: int) -> ExplorationTree:
    draw = random.Random(seed)
    return tree([(draw.randrange(-1, number), ACTIONS[number % 4]) for number in range(size)])


def labels_of(one: ExplorationTree) -> dict[tuple[str, int], float]:
    return {(one.task_id, node.node_id): (node.node_id % 7) / 6 for node in one.nodes}


def rows_of(one: ExplorationTree, supervise: str = "action_end", max_prompt: int = 500) -> list[PathRow]:
    chat = load_chat_format("qlass", tiny.tokenizer())
    return tree_rows(
        one, labels_of(one), instruction="go to door", chat=chat, max_prompt=max_prompt, supervise=supervise
    )


def node_rows(one: ExplorationTree, *, every_token: bool, max_prompt: int = 500):
    """The naive way: one row per node, holding the whole history and the action."""
    chat = load_chat_format("qlass", tiny.tokenizer())
    rows = []
    for node in one.nodes:
        path = [node]
        while path[0].parent_id >= 0:
            path.insert(0, one.nodes[path[0].parent_id])
        history = history_of("go to door", one.observation, [step.step for step in path])[:-1]
        encoded = chat.row(history, max_prompt)
        end = encoded.action_ends[-1]
        positions = list(range(end + 1)) if every_token else [end]
        target = labels_of(one)[one.task_id, node.node_id]
        rows.append(make_row(encoded.ids, positions, [target] * len(positions), [1 / len(positions)] * len(positions)))
    return rows


def gradients(rows) -> list[torch.Tensor]:
    torch.manual_seed(0)
    loss = ValueLoss(QNet(tiny.model().model, width=16), "fp32")
    for row in rows:
        batch = collate([row])
        loss(batch.ids, batch.rows, batch.positions, batch.targets, batch.weights).backward()
    return [value.grad for value in loss.parameters()]


def test_rows_of_a_small_tree_exactly() -> None:
    one = tree([(-1, "take key"), (0, "open door"), (0, "go to left"), (-1, "go to right")])
    rows = rows_of(one)
    tokenizer = tiny.tokenizer()
    assert [row.node_ids for row in rows] == [(0, 1), (2,), (3,)]
    ends = [[tokenizer.convert_ids_to_tokens(int(row.row.ids[end])) for end in row.row.positions] for row in rows]
    assert ends == [["key", "door"], ["left"], ["right"]]
    assert [row.row.targets.tolist() for row in rows] == [[0, 1 / 6], [2 / 6], [3 / 6]]
    words = tokenizer.convert_ids_to_tokens(rows[1].row.ids.tolist())
    reply = ["<|assistant|>", "Thought", ":", "I", "must", "Action", ":"]
    assert words == [
        *["<|system|>", "go", "to", "door", "<|end|>", "<|user|>", "see", "door", "1", "<|end|>"],
        *[*reply, "take", "key", "<|end|>", "<|user|>", "see", "0", "<|end|>"],
        *[*reply, "go", "to", "left"],
    ]


@pytest.mark.parametrize("max_prompt", [500, 60])
@pytest.mark.parametrize("seed", range(3))
def test_each_node_is_supervised_exactly_once(seed: int, max_prompt: int) -> None:
    one = random_tree(25, seed)
    rows = rows_of(one, max_prompt=max_prompt)
    assert sorted(node for row in rows for node in row.node_ids) == list(range(25))
    assert all(len(row.row.ids) <= max_prompt + LONGEST_REPLY for row in rows)
    assert all(len(row.node_ids) == len(row.row.positions) for row in rows)
    leaves = 25 - len({node.parent_id for node in one.nodes} - {-1})
    assert len(rows) == leaves or max_prompt == 60


@pytest.mark.parametrize("max_prompt", range(40, 160, 7))
@pytest.mark.parametrize("supervise", ["action_end", "every_token"])
def test_training_reads_exactly_what_scoring_reads(supervise: str, max_prompt: int) -> None:
    """Wherever histories are cut: the ids up to the end of each node's reply are those of prompt and reply."""
    chat = load_chat_format("qlass", tiny.tokenizer())
    one = tree([(n - 1, ACTIONS[n % 4]) for n in range(8)])
    read: dict[int, tuple[int, ...]] = {}
    for row in rows_of(one, supervise, max_prompt):
        ends = [n for n, token in enumerate([*row.row.ids.tolist(), chat.stop]) if token == chat.stop][2:]
        replies = ends[0::2][-len(row.node_ids) :]  # behind a row's last reply stands nothing
        read |= {node: tuple(row.row.ids[:end].tolist()) for node, end in zip(row.node_ids, replies, strict=True)}
    history = history_of("go to door", one.observation, [node.step for node in one.nodes])
    scored = [(history[: 2 + 2 * n], history[2 + 2 * n].content) for n in range(len(one.nodes))]
    assert read == {n: (*chat.prompt(h, max_prompt).ids, *chat.reply(text)) for n, (h, text) in enumerate(scored)}


@pytest.mark.parametrize("supervise", ["action_end", "every_token"])
@pytest.mark.parametrize("max_prompt", [500, 60])
def test_gradients_equal_those_of_one_row_per_node(supervise: str, max_prompt: int) -> None:
    one = random_tree(18, 3)
    found = gradients([row.row for row in rows_of(one, supervise, max_prompt)])
    wanted = gradients(node_rows(one, every_token=supervise == "every_token", max_prompt=max_prompt))
    for new, old in zip(found, wanted, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-5, atol=1e-5)


def test_every_token_weighs_a_node_once() -> None:
    one = random_tree(18, 4)
    rows = rows_of(one, "every_token")
    assert sum(row.row.weights.sum() for row in rows) == pytest.approx(18)


def test_a_node_without_label_is_an_error() -> None:
    one = tree([(-1, "take key"), (0, "open door")])
    chat = load_chat_format("qlass", tiny.tokenizer())
    with pytest.raises(DataError, match="t: node 1 has the label None"):
        tree_rows(one, {("t", 0): 1.0}, instruction="go", chat=chat, max_prompt=100)


def test_a_tree_without_nodes_has_no_rows() -> None:
    assert rows_of(tree([])) == []


def test_label_values_pick_the_column() -> None:
    label = QLabel("t", 0, -1, 1, 0.1, 0.2, 0.3, 0.4, 1)
    assert [label_values([label], column)["t", 0] for column in ("q", "q_norm", "average_reward", "reward")] == [
        0.1,
        0.2,
        0.3,
        0.4,
    ]


def test_validation_is_by_task_and_does_not_depend_on_order() -> None:
    tasks = [f"alfworld/train/{number:05d}" for number in range(40)]
    kept = validation_tasks(tasks, 0.1)
    assert len(kept) == 4
    assert kept == validation_tasks([*reversed(tasks), tasks[0]], 0.1)
    assert kept < validation_tasks(tasks, 0.3)
    assert len(validation_tasks(tasks[:2], 0.9)) == 1
    with pytest.raises(DataError, match="at least 2"):
        validation_tasks(tasks[:1], 0.1)


def test_every_observation_is_predicted_once_where_it_stands() -> None:
    tokenizer = tiny.tokenizer()
    chat = load_chat_format("qlass", tokenizer)
    one = random_tree(12, seed=3)
    rows = tree_rows(
        one, labels_of(one), instruction="go to door", chat=chat, max_prompt=500, observations=True
    )  # fmt: skip
    plain = rows_of(one)
    found: list[str] = []
    for path, bare in zip(rows, plain, strict=True):
        assert path.node_ids == bare.node_ids
        assert path.row.positions.tolist() == bare.row.positions.tolist()
        assert path.row.ids[: len(bare.row.ids)].tolist() == bare.row.ids.tolist()
        observed = path.row.observed
        assert observed is not None
        assert observed.min() > path.row.positions[0]
        assert observed.max() == len(path.row.ids) - 1
        text = tokenizer.decode(path.row.ids[observed])
        found += re.findall(r"see \d", text)
        assert "Action" not in text
    assert sorted(found) == sorted(node.step.observation for node in one.nodes)


def test_an_observation_without_room_is_left_out() -> None:
    chat = load_chat_format("qlass", tiny.tokenizer())
    one = tree([(-1, "take key"), (0, "open door")])
    options = {"instruction": "go to door", "chat": chat, "observations": True}
    (whole,) = tree_rows(one, labels_of(one), max_prompt=500, **options)
    (cut,) = tree_rows(one, labels_of(one), max_prompt=len(whole.row.ids) - 1, **options)
    assert whole.row.observed is not None
    assert cut.row.observed is not None
    assert set(cut.row.observed) < set(whole.row.observed)
    assert cut.row.positions.tolist() == whole.row.positions.tolist()


@pytest.mark.parametrize(("tail", "kept"), [(None, (0, 1, 2, 3, 4, 5)), (2, (0, 1, 2, 4, 5)), (0, (0, 4))])
def test_a_failed_branch_is_cut_below_its_last_choice(tail: int | None, kept: tuple[int, ...]) -> None:
    one = tree(
        [(-1, "take key"), (0, "go to left"), (1, "go to right"), (2, "go to left"), (-1, "open door"), (4, "x")]
    )
    chat = load_chat_format("qlass", tiny.tokenizer())
    options = {"instruction": "go to door", "chat": chat, "max_prompt": 500}
    rows = tree_rows(one, labels_of(one), **options, tail=tail)
    assert tuple(node for row in rows for node in row.node_ids) == kept


def test_a_successful_branch_is_never_cut() -> None:
    one = tree([(-1, "take key"), (0, "go to left"), (1, "go to right"), (-1, "open door")])
    won = replace(one.nodes[2], step=replace(one.nodes[2].step, reward=1.0, terminated=True))
    one = replace(one, nodes=(*one.nodes[:2], won, one.nodes[3]))
    chat = load_chat_format("qlass", tiny.tokenizer())
    rows = tree_rows(one, labels_of(one), instruction="go to door", chat=chat, max_prompt=500, tail=0)
    assert [row.node_ids for row in rows] == [(0, 1, 2), (3,)]
