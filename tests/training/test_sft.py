import dataclasses
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from qlass.errors import DataError, ModelMismatch
from qlass.models.folders import load_model, load_policy
from qlass.prompts import load_chat_format
from qlass.records import Trajectory
from qlass.training.losses import LanguageLoss
from qlass.training.rows import collate
from qlass.training.settings import LoraSettings, TrainSettings
from qlass.training.sft import sft_row, train_sft
from tests.training import tiny

SETTINGS = TrainSettings(2, 4, 1e-2, 0.1, 0.0, 1.0, precision="fp32", log_every=2, checkpoint_every=100)


def run(policy: Path, tmp_path: Path, settings: TrainSettings = SETTINGS, name: str = "sft"):
    return train_sft(
        policy, tiny.trajectories(), instruction=tiny.INSTRUCTION, settings=settings, out_dir=tmp_path / name,
        work_dir=tmp_path / f"work-{name}", seed=0, max_length=200, chat_format="qlass",
    )  # fmt: skip


def test_exactly_the_reply_and_its_end_are_predicted() -> None:
    tokenizer = tiny.tokenizer()
    episode = Trajectory(
        "t", "expert", "see door 1", (tiny.step("take key", "see key"), tiny.step("open door", "done")), 1.0, True
    )
    row = sft_row(episode, "go to door", load_chat_format("qlass", tokenizer), 100)
    words = tokenizer.convert_ids_to_tokens(row.ids.tolist())
    predicted = tokenizer.convert_ids_to_tokens([int(target) for target in row.targets])
    table = [(words[position], target) for position, target in zip(row.positions, predicted, strict=True)]
    reply = ["Thought", ":", "I", "must", "Action", ":"]
    first = ["<|assistant|>", *reply, "take", "key", "<|end|>"]
    second = ["<|assistant|>", *reply, "open", "door", "<|end|>"]
    assert table == [*pairwise(first), *pairwise(second)]
    system = ["<|system|>", "go", "to", "door", "<|end|>", "<|user|>", "see", "door", "1", "<|end|>"]
    # The last end of turn is predicted, but nothing is predicted from it; the last observation is not read at all.
    assert words == [*system, *first, "<|user|>", "see", "key", "<|end|>", *second[:-1]]


def test_the_loss_is_that_of_a_plain_causal_model(policy: Path) -> None:
    chat = load_chat_format("qlass", tiny.tokenizer())
    rows = [sft_row(episode, tiny.INSTRUCTION, chat, 200) for episode in tiny.trajectories(4)]
    batch = collate(rows)
    model = load_model(policy)
    found = LanguageLoss(model, "fp32")(batch.ids, batch.rows, batch.positions, batch.targets, batch.weights)
    wanted = torch.zeros(())
    for row in rows:
        logits = model(input_ids=torch.from_numpy(row.ids)[None]).logits[0, torch.from_numpy(row.positions)]
        wanted += torch.nn.functional.cross_entropy(logits, torch.from_numpy(row.targets).long(), reduction="sum")
    torch.testing.assert_close(found, wanted)


def test_an_episode_without_a_reply_is_an_error() -> None:
    empty = Trajectory("corridor/train/7", "expert", "see door 1", (), 0.0, False)
    with pytest.raises(DataError, match="corridor/train/7: no token is supervised"):
        sft_row(empty, "go", load_chat_format("qlass", tiny.tokenizer()), 100)


def test_training_learns_and_writes_a_policy(policy: Path, tmp_path: Path) -> None:
    result = run(policy, tmp_path)
    assert result.metrics["loss_last"] < 0.9 * result.metrics["loss_first"]
    assert [row.step for row in result.curve] == [2, 4]
    before, _ = load_policy(policy)
    after, tokenizer = load_policy(tmp_path / "sft")
    assert tokenizer.get_vocab() == tiny.tokenizer().get_vocab()
    assert all(not torch.equal(old, new) for old, new in zip(before.parameters(), after.parameters(), strict=True))
    assert (tmp_path / "sft" / "tokenizer.json").read_bytes() == (policy / "tokenizer.json").read_bytes()


def test_adapters_are_saved_with_a_pointer_to_their_base(policy: Path, tmp_path: Path) -> None:
    run(policy, tmp_path, dataclasses.replace(SETTINGS, lora=LoraSettings(4, 8.0, 0.1)))
    names = {path.name for path in (tmp_path / "sft").iterdir()}
    assert names == {
        "adapter_config.json", "adapter_model.safetensors", "pointer.json", "tokenizer.json", "tokenizer_config.json",
    }  # fmt: skip
    assert str(tmp_path) not in (tmp_path / "sft" / "adapter_config.json").read_text()
    before, _ = load_policy(policy)
    after, _ = load_policy(tmp_path / "sft")
    changed = {
        name
        for (name, old), new in zip(before.named_parameters(), after.parameters(), strict=True)
        if not torch.equal(old, new)
    }
    assert len(changed) == 14, "every linear layer, and neither embeddings nor norms"


def test_two_runs_write_the_same_bytes(policy: Path, tmp_path: Path) -> None:
    run(policy, tmp_path, name="a")
    run(policy, tmp_path, name="b")
    for path in (tmp_path / "a").iterdir():
        assert path.read_bytes() == (tmp_path / "b" / path.name).read_bytes(), path.name


def test_a_tokenizer_of_another_model_is_refused(policy: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    tiny.model(vocab=16).save_pretrained(other)
    tiny.tokenizer().save_pretrained(other)
    with pytest.raises(ModelMismatch, match="only 16 embedding rows"):
        run(other, tmp_path)


def test_nothing_to_train_on_is_an_error(policy: Path, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="run the stage `expert`"):
        train_sft(
            policy, [], instruction="go", settings=SETTINGS, out_dir=tmp_path / "o", work_dir=tmp_path / "w", seed=0,
            max_length=200, chat_format="qlass",
        )  # fmt: skip
