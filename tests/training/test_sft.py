from itertools import pairwise
from pathlib import Path

import pytest
import torch

from qlass.errors import DataError
from qlass.models.folders import load_model
from qlass.prompts import history_of, load_chat_format
from qlass.records import Trajectory
from qlass.training.core.collate import collate
from qlass.training.core.losses import LanguageLoss
from qlass.training.objectives.sft import sft_rows
from tests.training import tiny


def test_exactly_the_reply_and_its_end_are_predicted() -> None:
    tokenizer = tiny.tokenizer()
    episode = Trajectory(
        "t", "expert", "see door 1", (tiny.step("take key", "see key"), tiny.step("open door", "done")), 1.0, True
    )
    (row,) = sft_rows(episode, "go to door", load_chat_format("qlass", tokenizer), 100)
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


@pytest.mark.parametrize("max_prompt", range(38, 130, 7))
def test_every_reply_is_learnt_after_the_history_that_acting_sees(max_prompt: int) -> None:
    """In a long episode, too: all replies are supervised once, those before which acting cuts in rows of their own."""
    chat = load_chat_format("qlass", tiny.tokenizer())
    steps = tuple(tiny.step(("take key", "go to left", "open door")[n % 3], f"see {n}") for n in range(6))
    episode = Trajectory("t", "expert", "see door 1", steps, 1.0, True)
    rows = sft_rows(episode, "go to door", chat, max_prompt)
    history = history_of("go to door", episode.observation, steps)
    found: list[tuple[tuple[int, ...], tuple[int, ...]]] = []
    for row in rows:
        starts = [n for n in row.positions.tolist() if n - 1 not in row.positions]
        for start in starts:
            reply = [int(t) for n, t in zip(row.positions, row.targets, strict=True) if start <= n < start + 10]
            found.append((tuple(row.ids[: start + 1].tolist()), tuple(reply[: reply.index(chat.stop) + 1])))
    assert found == [
        (chat.prompt(history[:turn], max_prompt).ids, (*chat.reply(history[turn].content), chat.stop))
        for turn in range(2, len(history), 2)
    ]
    cut = sum(len(chat.prompt(history[:turn], 10_000).ids) > max_prompt for turn in range(2, len(history), 2))
    assert len(rows) == 1 + cut


def test_the_loss_is_that_of_a_plain_causal_model(policy: Path) -> None:
    chat = load_chat_format("qlass", tiny.tokenizer())
    rows = [row for episode in tiny.trajectories(4) for row in sft_rows(episode, tiny.INSTRUCTION, chat, 200)]
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
        sft_rows(empty, "go", load_chat_format("qlass", tiny.tokenizer()), 100)
