"""The local policy and the local QNet: sampling and scoring on `LlamaTrunk`."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from qlass.policies.base import Propose, Proposed, Score
from qlass.policies.llama import LlamaTrunk, Tail, Workspace
from qlass.prompts import ChatFormat, parse_reply, render_reply
from qlass.records import Proposal

COMPACT_EVERY = 8
"""Decoding steps between two looks for histories whose replies are all finished."""


class LocalPolicy:
    """A Llama model that proposes replies.

    A reply is sampled by inverse transform: its seed gives one uniform number per token, so the same seed gives the same
    reply in any batch, up to the rounding of batched matrix products (which can flip a token whose cumulative
    probability lies within about 1e-6 of that number).
    """

    def __init__(
        self,
        trunk: LlamaTrunk,
        head: Tensor,
        chat: ChatFormat,
        decode: Callable[[list[int]], str],
        normalise: Callable[[str], str],
        *,
        max_length: int,
        max_new_tokens: int,
    ) -> None:
        """Hold the model's parts.

        Args:
            trunk: the decoder.
            head: (vocabulary, hidden) output embedding.
            chat: how messages become ids.
            decode: ids to text.
            normalise: the environment's normal form of an action.
            max_length: tokens of prompt and reply together.
            max_new_tokens: tokens of a reply, its end of turn included.
        """
        self._trunk, self._head, self._chat = trunk, head.detach().to(trunk.dtype), chat
        self._decode, self._normalise = decode, normalise
        self._max_prompt, self._max_new = max_length - max_new_tokens, max_new_tokens

    def propose(self, requests: Sequence[Propose]) -> list[Proposed]:
        """Answer each request; see `Policy`. Requests with different numbers of seeds are decoded apart."""
        answers: dict[int, Proposed] = {}
        kinds: dict[tuple[int, float], list[int]] = {}
        for index, request in enumerate(requests):
            if request.admissible:
                answers[index] = self._choose(request)
            else:
                kinds.setdefault((len(request.seeds), request.temperature), []).append(index)
        for (_, temperature), members in kinds.items():
            found = self._generate([requests[index] for index in members], temperature)
            answers.update(zip(members, found, strict=True))
        return [answers[index] for index in range(len(requests))]

    def _generate(self, requests: Sequence[Propose], temperature: float) -> list[Proposed]:
        prompts = [self._chat.prompt(request.history, self._max_prompt) for request in requests]
        space, hidden, _ = self._trunk.prefill(prompts)
        rows = self._sample(space, hidden, [request.seeds for request in requests], temperature)
        return [
            Proposed(tuple(self._proposal(ids, logprob) for ids, logprob in replies), len(prompt.ids))
            for prompt, replies in zip(prompts, rows, strict=True)
        ]

    @torch.inference_mode()
    def _sample(
        self, space: Workspace, hidden: Tensor, seeds: Sequence[tuple[int, ...]], temperature: float
    ) -> list[list[tuple[list[int], float]]]:
        """Decode n replies to each of B prefixes in lock step; return (ids, log probability) of each."""
        width = len(seeds[0])
        noise = torch.from_numpy(np.stack([_uniforms(seed, self._max_new) for row in seeds for seed in row]))
        noise = noise.to(self._trunk.device)  # (B*n, max_new)
        logits = functional_logits(hidden, self._head).repeat_interleave(width, 0)  # (B*n, vocabulary)
        tail = Tail(self._trunk, len(seeds) * width, self._max_new)
        replies: list[list[int]] = [[] for _ in range(len(seeds) * width)]
        logprobs = [0.0] * len(replies)
        alive = torch.arange(len(replies), device=self._trunk.device)  # the reply that each row decodes
        done = [False] * len(replies)
        for step in range(self._max_new):
            tokens = _draw(logits, temperature, noise[alive, step])
            chosen = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
            for reply, token, logprob in zip(alive.tolist(), tokens.tolist(), chosen, strict=True):
                if not done[reply]:
                    replies[reply].append(token)
                    logprobs[reply] += logprob
                    done[reply] = token == self._chat.stop
            if all(done) or step == self._max_new - 1:
                break
            if step % COMPACT_EVERY == COMPACT_EVERY - 1:
                running = torch.tensor([not done[reply] for reply in alive.tolist()]).unflatten(0, (-1, width)).any(1)
                if running.sum() <= 0.75 * len(running):
                    keep = running.nonzero()[:, 0].to(self._trunk.device)
                    inner = (keep[:, None] * width + torch.arange(width, device=keep.device)).flatten()
                    space, alive, tokens = space.select(keep), alive[inner], tokens[inner]
                    tail.select(inner)
            states = self._trunk.extend(space, tokens.reshape(-1, width, 1), tail)
            logits = functional_logits(states.flatten(0, 2), self._head)
        pairs = list(zip(replies, logprobs, strict=True))
        return [pairs[start : start + width] for start in range(0, len(pairs), width)]

    def _proposal(self, ids: list[int], logprob: float) -> Proposal:
        text = self._decode(ids[:-1] if ids and ids[-1] == self._chat.stop else ids)
        thought, action, parsed = parse_reply(text)
        return Proposal(text, thought, self._normalise(action), parsed, len(ids), logprob)

    @torch.inference_mode()
    def _choose(self, request: Propose) -> Proposed:
        """Draw distinct admissible actions by their probability as whole replies (Gumbel top-k; greedy at 0)."""
        prompt = self._chat.prompt(request.history, self._max_prompt)
        space, hidden, _ = self._trunk.prefill([prompt])
        texts = [render_reply("", action) for action in request.admissible]
        replies = [(*self._chat.reply(text), self._chat.stop) for text in texts]
        logprobs = self._reply_logprobs(space, hidden, replies)
        scale = request.temperature
        scores = np.array(logprobs) / scale if scale else np.array(logprobs)
        if scale:
            uniform = _uniforms(request.seeds[0], len(texts)).astype(np.float64)
            scores = scores - np.log(-np.log(np.clip(uniform, 1e-12, 1 - 1e-7)))
        best = np.argsort(-scores, kind="stable")[: len(request.seeds)]
        proposals = tuple(
            Proposal(texts[i], "", self._normalise(request.admissible[i]), True, len(replies[i]), logprobs[i])
            for i in best.tolist()
        )
        return Proposed(proposals, len(prompt.ids))

    def _reply_logprobs(self, space: Workspace, hidden: Tensor, replies: list[tuple[int, ...]]) -> list[float]:
        """Return the log probability of each given reply to one prefix, all in one pass."""
        ids, real = _pad(replies, self._trunk.device)  # (n, T)
        states = self._trunk.extend(space, ids[None], Tail(self._trunk, len(replies), ids.shape[1]))[0]
        before = torch.cat((hidden.expand(len(replies), 1, -1), states[:, :-1]), 1)  # (n, T, hidden)
        logprobs = functional_logits(before, self._head).log_softmax(-1).gather(2, ids[..., None])[..., 0]
        return [float(value) for value in (logprobs * real).sum(1)]


class LocalValueFunction:
    """A QNet on its own trunk: reads the value at the last token of each reply, all replies of a history in one pass."""

    def __init__(
        self, trunk: LlamaTrunk, head: Callable[[Tensor], Tensor], chat: ChatFormat, *, max_length: int, room: int
    ) -> None:
        """Hold the model's parts.

        Args:
            trunk: the QNet's backbone.
            head: maps hidden states (N, hidden) to values (N,).
            chat: how messages become ids.
            max_length: tokens of prompt and reply together.
            room: tokens kept free for the reply, as the policy keeps them, so that both see the same history.
        """
        self._trunk, self._head, self._chat, self._max_prompt = trunk, head, chat, max_length - room

    @torch.inference_mode()
    def score(self, requests: Sequence[Score]) -> list[tuple[float, ...]]:
        """Answer each request; see `ValueFunction`."""
        prompts = [self._chat.prompt(request.history, self._max_prompt) for request in requests]
        space, _, _ = self._trunk.prefill(prompts)
        width = max(len(request.replies) for request in requests)
        stop = (self._chat.stop,)
        replies = [
            self._chat.reply(text) or stop
            for request in requests
            for text in (*request.replies, *[""] * (width - len(request.replies)))
        ]
        ids, real = _pad(replies, self._trunk.device)  # (B*n, T)
        tail = Tail(self._trunk, len(replies), ids.shape[1])
        last = self._trunk.extend(space, ids.unflatten(0, (len(requests), width)), tail, real.sum(1).long() - 1)
        values = self._head(last.flatten(0, 2).float()).unflatten(0, (len(requests), width)).tolist()
        return [tuple(row[: len(request.replies)]) for row, request in zip(values, requests, strict=True)]


def functional_logits(hidden: Tensor, head: Tensor) -> Tensor:
    """Return float32 logits of hidden states."""
    return torch.nn.functional.linear(hidden, head).float()


def _draw(logits: Tensor, temperature: float, uniform: Tensor) -> Tensor:
    """Pick one token per row: the argmax at temperature 0, else by inverse transform of its uniform number."""
    if temperature == 0:
        return logits.argmax(-1)
    cumulative = (logits / temperature).softmax(-1).cumsum(-1)
    # `right`: the first token whose cumulative probability exceeds the number, so never one of probability zero.
    drawn = torch.searchsorted(cumulative, uniform[:, None] * cumulative[:, -1:], right=True)[:, 0]
    return drawn.clamp_(max=logits.shape[-1] - 1)


def _uniforms(seed: int, count: int) -> np.ndarray:
    """Return `count` numbers in [0, 1) that depend on the seed alone (float32)."""
    return np.random.Generator(np.random.Philox(key=seed)).random(count, dtype=np.float32)


def _pad(rows: Sequence[Sequence[int]], device: torch.device) -> tuple[Tensor, Tensor]:
    """Right-pad rows to (N, T); the second tensor is 1 on real tokens."""
    width = max(map(len, rows))
    ids = torch.tensor([[*row, *[0] * (width - len(row))] for row in rows], device=device)
    real = torch.tensor([[1.0] * len(row) + [0.0] * (width - len(row)) for row in rows], device=device)
    return ids, real
