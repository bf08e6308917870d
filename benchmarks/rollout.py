"""Q-guided replies per CPU second: the engine of `qlass.policies` against one request at a time.

At every turn of some recorded episodes, M replies are drawn from the policy and each is scored by the QNet; then the
recorded step is taken. Histories, models, temperature and lengths are the same for all ways, and no environment is
stepped, so the ratios are those of the models' work alone.

ours       all tasks together; keys and values live across turns, siblings share their prefix, bf16 where the hardware has it
batch      `generate` of transformers on all replies of all tasks at once, padded on the left; all encoded anew; QNet likewise
shared     ours with the value head on the policy's trunk (`qnet.trunk: policy`): replies are scored where they were drawn
naive      one reply at a time: `generate` and a QNet call, each of which encodes the whole history anew (fp32)
released   naive, with every QNet row padded to 4,096 tokens, as the released code does

`qnet_score_vs_padded` is the scoring alone: given replies, read by the QNet of ours, against one row per call padded to 4,096
tokens, and against the rows of a turn in one batch padded to the longest of them (both fp32). In fp32 ours gives their values.
"""

from __future__ import annotations

import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch

from benchmarks.rows import Row, cpu_seconds
from benchmarks.training import CPU, LONGEST, MAX_STEPS, MODEL, OPTIONS
from qlass.envs import get_definition, make_env
from qlass.models.folders import load_model, load_policy
from qlass.models.qnet import QNet, load_qnet, save_qnet
from qlass.policies.base import Propose, Score
from qlass.policies.load import LocalSettings, local_models, local_policy, local_qnet
from qlass.policies.local import LocalPolicy, LocalValueFunction
from qlass.prompts import ChatFormat, history_of, load_chat_format
from qlass.records import History
from qlass.seeds import derive_seed
from tasks.playing.demonstrate import play

REPLIES = 4
TEMPERATURE = 0.7
LONGEST_REPLY = 48
RELEASED_LENGTH = 4096

Turn = list[History]
"""The histories of all tasks at one turn."""


def recorded_turns(tasks: int, turns: int) -> list[Turn]:
    """Return the histories of expert episodes in generated ALFWorld games, turn by turn."""
    definition = get_definition("alfworld")
    env = make_env(definition, OPTIONS, MAX_STEPS)
    episodes = []
    for spec in definition.panels(OPTIONS, "train", 0):
        episode = play(env, definition, spec, seed=0, thoughts=True)
        if len(episode.steps) >= turns:
            episodes.append(episode)
        if len(episodes) == tasks:
            break
    env.close()
    return [
        [history_of(definition.instruction, episode.observation, episode.steps[:turn]) for episode in episodes]
        for turn in range(turns)
    ]


@dataclass(frozen=True, slots=True)
class Plain:
    """The models as transformers loads them, with what the other ways need."""

    policy: Any
    qnet: QNet
    tokenizer: Any
    chat: ChatFormat

    @torch.no_grad()
    def generate(self, prompts: Sequence[Sequence[int]], seed: int) -> list[list[int]]:
        """Draw one reply per prompt; prompts are padded on the left."""
        longest, pad = max(map(len, prompts)), self.chat.stop
        ids = torch.tensor([[pad] * (longest - len(prompt)) + list(prompt) for prompt in prompts])
        mask = torch.tensor([[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts])
        torch.manual_seed(seed)
        found = self.policy.generate(
            ids, attention_mask=mask, do_sample=True, temperature=TEMPERATURE, top_k=0, top_p=1.0,
            max_new_tokens=LONGEST_REPLY, eos_token_id=self.chat.stop, pad_token_id=pad,
        )  # fmt: skip
        replies = found[:, longest:].tolist()
        return [row[: row.index(pad)] if pad in row else row for row in replies]

    @torch.no_grad()
    def score(self, rows: Sequence[Sequence[int]], length: int | None = None) -> list[float]:
        """Return the value at the end of each row; rows are padded on the right, to `length` where it is given."""
        longest, pad = length or max(map(len, rows)), self.chat.stop
        ids = torch.tensor([[*row, *[pad] * (longest - len(row))] for row in rows])
        at = torch.arange(len(rows)), torch.tensor([len(row) - 1 for row in rows])
        return cast("list[float]", self.qnet(ids, *at).tolist())


def one_by_one(plain: Plain, turns: Sequence[Turn], length: int | None = None) -> int:
    """Draw and score reply by reply; return how many there were."""
    done = 0
    for number, histories in enumerate(turns):
        for history in histories:
            prompt = plain.chat.prompt(history, LONGEST).ids
            for draw in range(REPLIES):
                (reply,) = plain.generate([prompt], derive_seed(number, done, draw) % 2**31)
                plain.score([[*prompt, *reply]], length)
                done += 1
    return done


def in_batches(plain: Plain, turns: Sequence[Turn]) -> None:
    """Draw and score all replies of a turn together."""
    for number, histories in enumerate(turns):
        prompts = [plain.chat.prompt(history, LONGEST).ids for history in histories for _ in range(REPLIES)]
        replies = plain.generate(prompts, number)
        plain.score([[*prompt, *reply] for prompt, reply in zip(prompts, replies, strict=True)])


def drawn(policy: LocalPolicy, number: int, histories: Turn) -> list[Score]:
    """Draw the replies of a turn with the engine, ready to be scored."""
    seeds = [tuple(derive_seed(number, task, draw) for draw in range(REPLIES)) for task in range(len(histories))]
    asked = [Propose(history, each, TEMPERATURE) for history, each in zip(histories, seeds, strict=True)]
    answers = policy.propose(asked)
    replies = [tuple(proposal.text for proposal in answer.proposals) for answer in answers]
    return [Score(history, texts) for history, texts in zip(histories, replies, strict=True)]


def ours(policy: LocalPolicy, qnet: LocalValueFunction, turns: Sequence[Turn]) -> None:
    """Draw and score all replies of a turn with the engine."""
    for number, histories in enumerate(turns):
        qnet.score(drawn(policy, number, histories))


def scoring(plain: Plain, qnet_dir: Path, how: LocalSettings, turns: Sequence[list[Score]], rounds: int) -> list[Row]:
    """Compare the scoring of given replies alone; in fp32, ours must give the values of both other ways."""
    chat = plain.chat
    full = [
        [[*chat.prompt(one.history, LONGEST).ids, *chat.reply(reply)] for one in turn for reply in one.replies]
        for turn in turns
    ]
    mine, batch, middle = [], [], len(full) // 2
    for _ in range(rounds):
        fresh = local_qnet(qnet_dir, how)
        mine.append(cpu_seconds(lambda: [fresh.score(turn) for turn in turns]))  # noqa: B023  (called at once)
        expected: list[list[float]] = []
        batch.append(cpu_seconds(lambda: expected.extend(map(plain.score, full))))  # noqa: B023
    alone: list[float] = []
    released = cpu_seconds(lambda: alone.extend(plain.score([row], RELEASED_LENGTH)[0] for row in full[middle]))
    exact = local_qnet(qnet_dir, replace(how, precision="fp32"))
    found = [[value for values in exact.score(turn) for value in values] for turn in turns]
    distance = max(
        abs(one - other)
        for left, right in ((found, expected), ([found[middle]], [alone]))
        for pair in zip(left, right, strict=True)
        for one, other in zip(*pair, strict=True)
    )
    if distance > 1e-5:
        raise SystemExit(f"qnet_score_vs_padded: values differ by up to {distance:.1e}")
    count, unit = sum(map(len, full)), "scored replies per CPU second"
    work = f"{count} given replies, {len(full)} turns; values differ by {distance:.0e} in fp32"
    return [
        Row.of(
            "qnet_score_vs_padded",
            count / min(mine),
            len(alone) / released,
            unit,
            f"{work}; one at a time, rows of {RELEASED_LENGTH:,} tokens (measured on one turn)",
        ),
        Row.of(
            "qnet_score_vs_padded (batch)",
            count / min(mine),
            count / min(batch),
            unit,
            f"{work}; all rows of a turn in one call, padded to the longest",
        ),
    ]


def rows(tasks: int = 8, turns: int = 6, rounds: int = 3) -> list[Row]:
    """Measure all five ways; ours and the batches take turns, and the best round of each counts."""
    recorded = recorded_turns(tasks, turns)
    normalise = get_definition("alfworld").normalise_action
    how = LocalSettings("qlass", LONGEST, LONGEST_REPLY, "cpu")
    mine, shared, batch = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        torch.manual_seed(0)
        qnet_dir, head_dir = Path(folder) / "qnet", Path(folder) / "head"
        qnet = QNet(cast("Any", load_model(MODEL)).model)
        save_qnet(qnet, qnet_dir, MODEL)
        save_qnet(qnet, head_dir, MODEL, policy_trunk=True)
        policy, tokenizer = load_policy(MODEL, device=CPU)
        plain = Plain(policy, load_qnet(qnet_dir)[0], tokenizer, load_chat_format("qlass", tokenizer))
        for _ in range(rounds):
            fresh = local_policy(MODEL, how, normalise), local_qnet(qnet_dir, how)  # nothing is cached yet
            mine.append(cpu_seconds(lambda: ours(*fresh, recorded)))  # noqa: B023  (called at once)
            both = cast("Any", local_models(MODEL, head_dir, how, normalise))
            shared.append(cpu_seconds(lambda: ours(*both, recorded)))  # noqa: B023
            batch.append(cpu_seconds(lambda: in_batches(plain, recorded)))
        given = [drawn(fresh[0], number, histories) for number, histories in enumerate(recorded)]
        scored = scoring(plain, qnet_dir, how, given, rounds)
    naive = cpu_seconds(lambda: one_by_one(plain, recorded))
    released = turns * cpu_seconds(lambda: one_by_one(plain, recorded[turns // 2 : turns // 2 + 1], RELEASED_LENGTH))
    count = tasks * turns * REPLIES
    unit = "scored replies per CPU second"
    work = f"{tasks} tasks, {turns} turns, {REPLIES} replies a turn, policy and QNet of {MODEL}"
    return [
        Row.of("rollout_vs_naive", count / min(mine), count / naive, unit, f"{work}; one request at a time"),
        Row.of(
            "rollout_vs_naive (shared trunk)",
            count / min(shared),
            count / naive,
            unit,
            f"{work}; ours with the value head on the policy's trunk; one request at a time",
        ),
        Row.of(
            "rollout_vs_released",
            count / min(mine),
            count / released,
            unit,
            f"{work}; one at a time, QNet rows of {RELEASED_LENGTH:,} tokens (measured on one turn)",
        ),
        Row.of(
            "rollout_vs_hf_generate_batch",
            count / min(mine),
            count / min(batch),
            unit,
            f"{work}; all replies of a turn in one call",
        ),
        *scored,
    ]
