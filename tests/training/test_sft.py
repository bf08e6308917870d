from itertools import pairwise
from pathlib import Path

import pytest
import torch

from qlass.errors import DataError
from qlass.models.folders import load_model
from qlass.prompts import load_chat_format
from qlass.records import Trajectory
from qlass.training.core.collate import collate
from qlass.training.core.losses import LanguageLoss
from qlass.training.objectives.sft import sft_row
from tests.training import tiny


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
