import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from qlass.errors import DataError, ModelMismatch, SettingsError
from qlass.jsonl import write_json
from qlass.models.folders import load_model
from qlass.models.qnet import QNet, load_qnet, load_value_head, save_qnet
from qlass.qnet.train import train_qnet
from qlass.records import Cost, ExplorationTree, Node, QLabel
from qlass.training.core.losses import ValueLoss
from qlass.training.objectives.value import QNetSettings, label_column
from tests.training import tiny


def forest(count: int = 16) -> tuple[list[ExplorationTree], list[QLabel]]:
    """Trees in which taking the key is what pays."""
    trees, labels = [], []
    for number in range(count):
        nodes: list[Node] = []
        for first in ("go to left", "take key"):
            parent = len(nodes)
            nodes.append(Node(parent, -1, 1, tiny.step(first), "expansion"))
            for second in ("take key", "open door"):
                nodes.append(Node(len(nodes), parent, 2, tiny.step(second, end=True), "expansion"))
        trees.append(ExplorationTree(f"t/{number}", f"see door {number % 10}", tuple(nodes), 0, 0, 0, False, Cost()))
        for node in nodes:
            q = float(node.step.action == "take key")
            labels.append(QLabel(f"t/{number}", node.node_id, node.parent_id, node.depth, q / 2, q, q, q, 1))
    return trees, labels


def run(policy: Path, tmp_path: Path, name: str = "q", **changes: Any):
    trees, labels = forest()
    return train_qnet(
        policy, trees, labels, column="q_norm", instruction=tiny.INSTRUCTION, settings=tiny.qnet_settings(**changes),
        out_dir=tmp_path / name, work_dir=tmp_path / f"work-{name}", seed=0, max_length=200, max_new_tokens=16, chat_format="qlass",
        resamples=50,
    )  # fmt: skip


def test_the_qnet_learns_to_order_siblings(policy: Path, tmp_path: Path) -> None:
    result = run(policy, tmp_path)
    assert result.metrics["pairwise_accuracy"] == 1.0
    assert result.metrics["pairwise_pairs"] == 12
    assert result.metrics["mse"] < 0.1 * result.metrics["baseline_mse"]
    assert result.metrics["validation_tasks"] == 4
    assert result.metrics["rows"] == 12 * 4
    assert [row["depth"] for row in result.siblings] == [1, 2]
    assert sum(row["n"] for row in result.calibration) == 24
    qnet, tokenizer = load_qnet(tmp_path / "q")
    assert not torch.equal(next(qnet.backbone.parameters()), next(load_model(policy).parameters()))
    assert tokenizer.eos_token == "<|end|>"


def test_two_runs_write_the_same_bytes_and_numbers(policy: Path, tmp_path: Path) -> None:
    assert run(policy, tmp_path, "a") == run(policy, tmp_path, "b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_every_token_trains_too(policy: Path, tmp_path: Path) -> None:
    result = run(policy, tmp_path, supervise="every_token")
    assert result.metrics["mse"] < result.metrics["baseline_mse"]


def test_cut_branches_are_cut_in_training_only(policy: Path, tmp_path: Path) -> None:
    trees, labels = forest()
    for number, one in enumerate(trees):
        nodes = list(one.nodes)
        for _ in range(3):
            last = len(nodes)
            nodes.append(Node(last, last - 1, nodes[-1].depth + 1, tiny.step("go to left"), "rollout"))
            labels.append(QLabel(one.task_id, last, last - 1, nodes[-1].depth, 0.0, 0.0, 0.0, 0.0, 1))
        trees[number] = dataclasses.replace(one, nodes=tuple(nodes))
    result = train_qnet(
        policy, trees, labels, column="q_norm", instruction=tiny.INSTRUCTION,
        settings=tiny.qnet_settings(tail=0), out_dir=tmp_path / "q", work_dir=tmp_path / "work", seed=0,
        max_length=200, max_new_tokens=16, chat_format="qlass", resamples=50,
    )  # fmt: skip
    assert sum(row["n"] for row in result.calibration) == 4 * 9


def test_predicting_observations_changes_the_trunk_and_leaves_no_head_behind(policy: Path, tmp_path: Path) -> None:
    plain = run(policy, tmp_path, "plain")
    joint = run(policy, tmp_path, "joint", observation_loss=1.0)
    assert joint.metrics["loss_first"] > plain.metrics["loss_first"] + 1.0  # the cross-entropy of a new model
    assert joint.metrics["pairwise_accuracy"] == 1.0
    names = [sorted(path.name for path in (tmp_path / name).iterdir()) for name in ("plain", "joint")]
    assert names[0] == names[1]
    weights = [load_file(tmp_path / name / "model.safetensors") for name in ("plain", "joint")]
    assert weights[0].keys() == weights[1].keys()
    assert any(not torch.equal(weights[0][name], weights[1][name]) for name in weights[0])


def test_the_losses_add_up(policy: Path) -> None:
    model = load_model(policy)
    loss = ValueLoss(QNet(model.base_model, 8), "fp32", model.get_output_embeddings(), 0.5)
    ids = torch.arange(1, 9)[None]
    at = (torch.tensor([0]), torch.tensor([4]), torch.tensor([0.25]), torch.tensor([2.0]))
    observed = (torch.tensor([0, 0]), torch.tensor([6, 7]), torch.tensor([1.0, 1.0]))
    logits = model(ids).logits[0]
    wanted = torch.nn.functional.cross_entropy(logits[[5, 6]], ids[0, [6, 7]], reduction="sum")
    torch.testing.assert_close(loss(ids, *at, *observed), loss(ids, *at) + 0.5 * wanted)


def test_a_head_alone_learns_on_the_policys_trunk(policy: Path, tmp_path: Path) -> None:
    result = run(policy, tmp_path, trunk="policy")
    assert result.metrics["loss_last"] < result.metrics["loss_first"]
    qnet, _ = load_qnet(tmp_path / "q")
    trunk = load_model(policy).base_model
    assert all(torch.equal(value, trunk.state_dict()[name]) for name, value in qnet.backbone.state_dict().items())
    head = load_value_head(tmp_path / "q", trunk)
    hidden = torch.randn(3, 32)
    assert torch.equal(head(hidden), qnet.values(hidden))
    run(policy, tmp_path, "own")
    assert load_value_head(tmp_path / "own", trunk) is None
    with torch.no_grad():
        trunk.norm.weight[-1] += 0.01
    assert load_value_head(tmp_path / "q", trunk) is None


def test_fewer_tasks_are_learnt_from_and_the_same_are_held_out(policy: Path, tmp_path: Path) -> None:
    result = run(policy, tmp_path, tasks=3)
    assert (result.metrics["train_tasks"], result.metrics["rows"]) == (3, 3 * 4)
    assert result.metrics["validation_tasks"] == 4
    with pytest.raises(SettingsError, match=r"qnet\.tasks: found 13; allowed: 1 to 12 "):
        run(policy, tmp_path, "more", tasks=13)


def test_saving_and_loading_changes_nothing(policy: Path, tmp_path: Path) -> None:
    qnet = QNet(load_model(policy).base_model, width=8).eval()
    save_qnet(qnet, tmp_path / "q", policy)
    back, _ = load_qnet(tmp_path / "q")
    assert qnet.state_dict().keys() == back.state_dict().keys()
    assert all(torch.equal(value, back.state_dict()[name]) for name, value in qnet.state_dict().items())
    ids = torch.arange(20)[None]
    rows, positions = torch.zeros(2, dtype=torch.long), torch.tensor([3, 19])
    assert torch.equal(qnet(ids, rows, positions), back(ids, rows, positions))
    hidden = back.backbone(input_ids=ids).last_hidden_state
    assert torch.equal(back.values(hidden[0, positions]), back(ids, rows, positions))
    assert sum(value.numel() for value in qnet.head.parameters()) == (32 * 8 + 8) + (8 * 8 + 8) + (8 + 1)


def test_a_head_of_another_backbone_is_refused(policy: Path, tmp_path: Path) -> None:
    save_qnet(QNet(load_model(policy).base_model, width=8), tmp_path, policy)
    write_json(tmp_path / "value_head.json", {"hidden_size": 64, "width": 8})
    with pytest.raises(ModelMismatch, match="reads 64 hidden units, the backbone has 32"):
        load_qnet(tmp_path)
    write_json(tmp_path / "value_head.json", {"hidden_size": 32, "width": 16})
    with pytest.raises(ModelMismatch, match="value_head.safetensors"):
        load_qnet(tmp_path)


def test_a_policy_is_no_qnet(policy: Path) -> None:
    with pytest.raises(DataError, match="not a QNet"):
        load_qnet(policy)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"target": "reward"}, "target: found 'reward' (text), expected one of q_norm, q"),
        ({"supervise": "all"}, "supervise: found 'all' (text), expected one of action_end, every_token"),
        ({"head_width": 0}, "head_width: found 0, expected a whole number >= 1"),
        ({"trunk": "shared"}, "trunk: found 'shared' (text), expected one of own, policy"),
        ({"tail": -1}, "tail: found -1, expected a whole number >= 0 or null"),
        ({"validation_fraction": 1.0}, "validation_fraction: found 1.0, expected a number > 0 and < 1"),
        ({"validation_fraction": 0.0}, "validation_fraction: found 0.0, expected a number > 0 and < 1"),
        ({"epochs": 0}, "epochs: found 0, expected a whole number >= 1"),
        ({"tasks": 0}, "tasks: found 0, expected a whole number >= 1 or null"),
        ({"observation_loss": -1.0}, "observation_loss: found -1.0, expected a number >= 0"),
        (
            {"trunk": "policy", "observation_loss": 0.3},
            "observation_loss: found 0.3, expected 0, or any weight with trunk 'own': no other weight could learn from it",
        ),
        (
            {"observation_loss": 0.5, "supervise": "every_token"},
            "observation_loss: found 0.5, expected 0, or any weight with supervise 'action_end'",
        ),
    ],
)  # fmt: skip
def test_settings_are_checked(change: dict[str, object], message: str) -> None:
    assert tiny.fault(QNetSettings, {**tiny.QNET, **change}) == message


@pytest.mark.parametrize("change", [{"width": 3}, {"lora": None}, {"lora": tiny.LORA}])
def test_unknown_settings_are_refused(change: dict[str, object]) -> None:
    """Adapters too: the QNet is always trained whole."""
    found = tiny.fault(QNetSettings, {**tiny.QNET, **change})
    assert found.startswith(f"{next(iter(change))}: unknown, expected one of epochs, batch_size, ")
    assert ", head_width, trunk, " in found
    assert "lora" not in found.partition("expected")[2]


def test_every_setting_of_a_qnet_must_be_said() -> None:
    assert QNetSettings.model_validate(tiny.QNET).model_dump() == tiny.QNET
    for name in tiny.QNET:
        rest = {key: value for key, value in tiny.QNET.items() if key != name}
        assert tiny.fault(QNetSettings, rest).startswith(f"{name}: missing, expected ")


def test_label_columns() -> None:
    assert label_column("q", "q_norm") == "q_norm"
    assert label_column("q", "q") == "q"
    assert label_column("reward", "q") == "reward"
    with pytest.raises(SettingsError, match="label.q_type"):
        label_column("value", "q")
