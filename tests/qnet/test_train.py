import dataclasses
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from qlass.errors import DataError, ModelMismatch, SettingsError
from qlass.jsonl import write_json
from qlass.models.folders import load_model
from qlass.models.qnet import QNet, ValueLoss, load_qnet, load_value_head, save_qnet
from qlass.qnet.settings import QNetSettings, label_column
from qlass.qnet.train import train_qnet
from qlass.records import Cost, ExplorationTree, Node, QLabel
from qlass.training.settings import LoraSettings, TrainSettings
from tests.training import tiny

TRAIN = TrainSettings(6, 8, 3e-3, 0.05, 0.0, 1.0, precision="fp32", log_every=5, checkpoint_every=7)
SETTINGS = QNetSettings(TRAIN, head_width=32, validation_fraction=0.2)


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


def run(policy: Path, tmp_path: Path, settings: QNetSettings = SETTINGS, name: str = "q"):
    trees, labels = forest()
    return train_qnet(
        policy, trees, labels, column="q_norm", instruction=tiny.INSTRUCTION, settings=settings,
        out_dir=tmp_path / name, work_dir=tmp_path / f"work-{name}", seed=0, max_length=200, chat_format="qlass",
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
    assert run(policy, tmp_path, name="a") == run(policy, tmp_path, name="b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_every_token_trains_too(policy: Path, tmp_path: Path) -> None:
    result = run(policy, tmp_path, dataclasses.replace(SETTINGS, supervise="every_token"))
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
        settings=dataclasses.replace(SETTINGS, tail=0), out_dir=tmp_path / "q", work_dir=tmp_path / "work", seed=0,
        max_length=200, chat_format="qlass", resamples=50,
    )  # fmt: skip
    assert sum(row["n"] for row in result.calibration) == 4 * 9


def test_predicting_observations_changes_the_trunk_and_leaves_no_head_behind(policy: Path, tmp_path: Path) -> None:
    plain = run(policy, tmp_path, name="plain")
    joint = run(policy, tmp_path, dataclasses.replace(SETTINGS, observation_loss=1.0), "joint")
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
    result = run(policy, tmp_path, dataclasses.replace(SETTINGS, trunk="policy"))
    assert result.metrics["loss_last"] < result.metrics["loss_first"]
    qnet, _ = load_qnet(tmp_path / "q")
    trunk = load_model(policy).base_model
    assert all(torch.equal(value, trunk.state_dict()[name]) for name, value in qnet.backbone.state_dict().items())
    head = load_value_head(tmp_path / "q", trunk)
    hidden = torch.randn(3, 32)
    assert torch.equal(head(hidden), qnet.values(hidden))
    run(policy, tmp_path, name="own")
    assert load_value_head(tmp_path / "own", trunk) is None
    with torch.no_grad():
        trunk.norm.weight[-1] += 0.01
    assert load_value_head(tmp_path / "q", trunk) is None


def test_fewer_tasks_are_learnt_from_and_the_same_are_held_out(policy: Path, tmp_path: Path) -> None:
    result = run(policy, tmp_path, dataclasses.replace(SETTINGS, tasks=3))
    assert (result.metrics["train_tasks"], result.metrics["rows"]) == (3, 3 * 4)
    assert result.metrics["validation_tasks"] == 4
    with pytest.raises(SettingsError, match=r"qnet\.tasks: found 13; allowed: 1 to 12 "):
        run(policy, tmp_path, dataclasses.replace(SETTINGS, tasks=13), "more")


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


def test_settings_are_checked() -> None:
    values = {
        **{field.name: getattr(TRAIN, field.name) for field in dataclasses.fields(TRAIN)},
        "head_width": 32, "target": "q_norm", "supervise": "action_end", "validation_fraction": 0.2,
    }  # fmt: skip
    del values["lora"]
    assert QNetSettings.from_params("qnet", values) == SETTINGS
    for change, message in (
        ({"target": "reward"}, "qnet.target: found 'reward', allowed are q_norm, q"),
        ({"supervise": "all"}, "qnet.supervise"),
        ({"head_width": 0}, "qnet.head_width"),
        ({"trunk": "shared"}, "qnet.trunk"),
        ({"trunk": "policy", "observation_loss": 0.3}, "qnet.observation_loss: found 0.3 with trunk 'policy'"),
        ({"validation_fraction": 1.0}, "qnet.validation_fraction"),
        ({"epochs": 0}, "qnet.epochs"),
        ({"tasks": 0}, "qnet.tasks"),
        ({"observation_loss": -1.0}, "qnet.observation_loss"),
        ({"observation_loss": 0.5, "supervise": "every_token"}, "qnet.observation_loss: found 0.5 with supervise"),
        ({"width": 3}, "unknown keys"),
    ):
        with pytest.raises(SettingsError, match=message):
            QNetSettings.from_params("qnet", {**values, **change})
    with pytest.raises(SettingsError, match="always trained whole"):
        QNetSettings(dataclasses.replace(TRAIN, lora=LoraSettings(4, 8.0)))


def test_label_columns() -> None:
    assert label_column("q", "q_norm") == "q_norm"
    assert label_column("q", "q") == "q"
    assert label_column("reward", "q") == "reward"
    with pytest.raises(SettingsError, match="label.q_type"):
        label_column("value", "q")
