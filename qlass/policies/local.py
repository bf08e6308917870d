"""The local policy and the local QNet: sampling and scoring on `LlamaTrunk`."""

from __future__ import annotations

import itertools
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from qlass.policies.base import Propose, Proposed, Score
from qlass.policies.llama import LlamaTrunk, Workspace
from qlass.prompts import ChatFormat, Ids, Prompt, parse_reply, prompt_limit, render_reply
from qlass.records import Proposal

COMPACT_EVERY = 8
"""Decoding steps between two looks for histories whose replies are all finished."""


class ReplyStates:
    """Hidden states at the last tokens of the replies drawn lately, for a value head that reads the policy's own trunk."""

    def __init__(self, capacity: int = 4096) -> None:
        """Keep the newest `capacity` states."""
        self._capacity = capacity
        self._states: OrderedDict[tuple[Ids, Ids], Tensor] = OrderedDict()

    def put(self, prompt: Ids, reply: Ids, state: Tensor) -> None:
        """Remember the state (hidden,) at the end of a reply, given without its end of turn."""
        self._states[prompt, reply] = state.clone()  # a view would keep the states of all replies of its step
        if len(self._states) > self._capacity:
            self._states.popitem(last=False)

    def get(self, prompt: Ids, reply: Ids) -> Tensor | None:
        """Return what `put` remembered, or None."""
        return self._states.get((prompt, reply))

    def forget(self) -> None:
        """Drop all states."""
        self._states.clear()


class LocalPolicy:
    """A Llama model that proposes replies.

    A reply is sampled by inverse transform: its seed gives one uniform number per token, so the same seed gives the same
    reply in any batch, up to the rounding of batched matrix products (which can flip a token whose cumulative
    probability lies within about 1e-6 of that number).
    """

    def __init__(  # noqa: PLR0913  (named one by one, as its settings are)
        self,
        trunk: LlamaTrunk,
        head: Tensor,
        chat: ChatFormat,
        decode: Callable[[list[int]], str],
        normalise: Callable[[str], str],
        *,
        max_length: int,
        max_new_tokens: int,
        min_p: float = 0.0,
        states: ReplyStates | None = None,
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
            min_p: a sampled token is at least this many times as probable as the likeliest one, in [0, 1).
            states: gets the state at the end of each drawn reply, where a value head reads them.
        """
        self._trunk, self._head, self._chat = trunk, head.detach().to(trunk.dtype), chat
        self._decode, self._normalise, self._min_p = decode, normalise, min_p
        self._max_prompt, self._max_new, self._states = (
            prompt_limit(max_length, max_new_tokens),
            max_new_tokens,
            states,
        )

    def forget(self) -> None:
        """Drop what was cached: the policy is as it was before its first request."""
        self._trunk.forget()
        if self._states is not None:
            self._states.forget()

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
        if self._states is not None:
            for prompt, replies in zip(prompts, rows, strict=True):
                for reply in replies:
                    if reply.end is not None:
                        self._states.put(prompt.ids, tuple(reply.ids[:-1]), reply.end)
        return [
            Proposed(tuple(map(self._proposal, replies)), len(prompt.ids))
            for prompt, replies in zip(prompts, rows, strict=True)
        ]

    @torch.inference_mode()
    def _sample(
        self, space: Workspace, hidden: Tensor, seeds: Sequence[tuple[int, ...]], temperature: float
    ) -> list[list[_Reply]]:
        """Decode n replies to each of B prefixes in lock step."""
        width = len(seeds[0])
        noise = torch.from_numpy(np.stack([_uniforms(seed, self._max_new) for row in seeds for seed in row]))
        noise = noise.to(self._trunk.device)  # (B*n, max_new)
        states = hidden.repeat_interleave(width, 0)  # (B*n, hidden): where the next token is drawn
        logits = functional_logits(hidden, self._head).repeat_interleave(width, 0)  # (B*n, vocabulary)
        replies = [_Reply() for _ in range(len(seeds) * width)]
        alive = torch.arange(len(replies), device=self._trunk.device)  # the reply that each row decodes
        for step in range(self._max_new):
            tokens = _draw(logits, temperature, self._min_p, noise[alive, step])
            chosen = logits.log_softmax(-1).gather(1, tokens[:, None])[:, 0].tolist()
            drawn = zip(alive.tolist(), tokens.tolist(), chosen, strict=True)
            for row, (number, token, logprob) in enumerate(drawn):
                reply = replies[number]
                if not reply.done:
                    reply.ids.append(token)
                    reply.logprob += logprob
                    reply.done = token == self._chat.stop
                    if reply.done and step:  # an empty reply has no last token
                        reply.end = states[row]
            if all(reply.done for reply in replies) or step == self._max_new - 1:
                break
            if step % COMPACT_EVERY == COMPACT_EVERY - 1:
                unfinished = torch.tensor([not replies[number].done for number in alive.tolist()])
                running = unfinished.unflatten(0, (-1, width)).any(1)
                if running.sum() <= 0.75 * len(running):
                    keep = running.nonzero()[:, 0].to(self._trunk.device)
                    inner = (keep[:, None] * width + torch.arange(width, device=keep.device)).flatten()
                    space, alive, tokens = space.select(keep), alive[inner], tokens[inner]
            states = self._trunk.extend(space, tokens.reshape(-1, width, 1)).flatten(0, 2)
            logits = functional_logits(states, self._head)
        return [replies[start : start + width] for start in range(0, len(replies), width)]

    def _proposal(self, reply: _Reply) -> Proposal:
        text = self._decode(reply.ids[:-1] if reply.done else reply.ids)
        thought, action, parsed = parse_reply(text)
        return Proposal(text, thought, self._normalise(action), parsed, len(reply.ids), reply.logprob)

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
        states = self._trunk.extend(space, ids[None])[0]
        before = torch.cat((hidden.expand(len(replies), 1, -1), states[:, :-1]), 1)  # (n, T, hidden)
        logprobs = functional_logits(before, self._head).log_softmax(-1).gather(2, ids[..., None])[..., 0]
        return [float(value) for value in (logprobs * real).sum(1)]


@dataclass(slots=True)
class _Reply:
    """A reply while it is decoded.

    Attributes:
        ids: drawn so far, the end of turn included.
        logprob: summed over them, at temperature 1.
        done: the end of turn was drawn.
        end: the hidden state at the last token before the end of turn.
    """

    ids: list[int] = field(default_factory=list)
    logprob: float = 0.0
    done: bool = False
    end: Tensor | None = None


class LocalValueFunction:
    """A QNet: reads the value at the last token of each reply, all replies of a history in one pass.

    On the policy's trunk it finds histories in the policy's cache, and of replies just drawn also the states to read: then
    a score costs the value head alone.
    """

    def __init__(
        self,
        trunk: LlamaTrunk,
        head: Callable[[Tensor], Tensor],
        chat: ChatFormat,
        *,
        max_length: int,
        room: int,
        states: ReplyStates | None = None,
    ) -> None:
        """Hold the model's parts.

        Args:
            trunk: the QNet's backbone, or the policy's trunk itself.
            head: maps hidden states (N, hidden) to values (N,).
            chat: how messages become ids.
            max_length: tokens of prompt and reply together.
            room: tokens kept free for the reply, as the policy keeps them, so that both see the same history.
            states: what the policy on the same trunk left at the ends of its replies; None on a trunk of its own.
        """
        self._trunk, self._head, self._chat, self._max_prompt = trunk, head, chat, prompt_limit(max_length, room)
        self._states = states or ReplyStates(0)

    def forget(self) -> None:
        """Drop what was cached, as `LocalPolicy.forget`."""
        self._trunk.forget()
        self._states.forget()

    @torch.inference_mode()
    def score(self, requests: Sequence[Score]) -> list[tuple[float, ...]]:
        """Answer each request; see `ValueFunction`."""
        prompts = [self._chat.prompt(request.history, self._max_prompt) for request in requests]
        replies = [[self._chat.reply(text) or (self._chat.stop,) for text in request.replies] for request in requests]
        states = [
            [self._states.get(prompt.ids, reply) for reply in row]
            for prompt, row in zip(prompts, replies, strict=True)
        ]
        unread = [number for number, row in enumerate(states) if any(state is None for state in row)]
        if unread:
            read = self._read([prompts[number] for number in unread], [replies[number] for number in unread])
            for number, row in zip(unread, read, strict=True):
                states[number] = [
                    known if known is not None else new for known, new in zip(states[number], row, strict=False)
                ]
        flat = torch.stack([state for row in states for state in row if state is not None])  # (N, hidden)
        values = iter(self._head(flat.float()).tolist())
        return [tuple(itertools.islice(values, len(row))) for row in replies]

    def _read(self, prompts: Sequence[Prompt], replies: Sequence[Sequence[Ids]]) -> Tensor:
        """Return the states (B, n, hidden) at the last tokens of the replies to each prompt; n is the largest number."""
        space, _, _ = self._trunk.prefill(prompts)
        width = max(map(len, replies))
        padded = [reply for row in replies for reply in (*row, *[(self._chat.stop,)] * (width - len(row)))]
        ids, real = _pad(padded, self._trunk.device)  # (B*n, T)
        shape = (len(prompts), width)
        ends = real.sum(1).long() - 1
        return self._trunk.extend(space, ids.unflatten(0, shape), ends.unflatten(0, shape))[:, :, 0]


def functional_logits(hidden: Tensor, head: Tensor) -> Tensor:
    """Return float32 logits of hidden states."""
    return torch.nn.functional.linear(hidden, head).float()


def _draw(logits: Tensor, temperature: float, min_p: float, uniform: Tensor) -> Tensor:
    """Pick one token per row: the argmax at temperature 0, else by inverse transform of its uniform number.

    With `min_p`, tokens of less than this share of the highest probability are left out (Nguyen et al.,
    arXiv 2407.01082).
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits / temperature).softmax(-1)
    if min_p:
        probabilities *= probabilities >= min_p * probabilities.amax(-1, keepdim=True)
    cumulative = probabilities.cumsum(-1)
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
