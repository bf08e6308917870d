"""A Llama decoder run by hand over a cache of conversation prefixes.

`transformers.generate` encodes the whole history at every turn, once per candidate. Here the keys and values of a
conversation are kept between turns, only new tokens are encoded, and candidate replies of one history are extra query
rows on one shared prefix. `tests/policies/test_llama.py` checks every number against `LlamaModel`.
"""

from __future__ import annotations

import itertools
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, cast

import torch
from torch import Tensor
from torch.nn import functional

from qlass.models.headers import check_engine
from qlass.policies.prefixes import PrefixCache, Slot
from qlass.prompts import Prompt

if TYPE_CHECKING:
    from transformers import LlamaModel

PREFILL_TOKENS = 2048
"""Query tokens that one prefill batch may hold, padding included: keeps the score matrix inside the CPU's caches."""

PREFILL_QUERIES = 128
"""Queries of a row whose scores are computed together: a block looks no further than its last query may."""

COLUMNS = 64
"""Caches have a multiple of this number of columns: oneDNN prepares a kernel for each new shape, which takes half a millisecond."""

PACKED_ROWS = 64
"""Rows of a product for which weights are laid out; other numbers give the same layout."""

SHARED_TOKENS = 32
"""A beginning that several prompts share is encoded first and once if it has this many new tokens."""


@dataclass(slots=True)
class Workspace:
    """The prefixes of one call side by side, and behind each of them the replies that continue it.

    The columns behind the prefixes go token by token, and for each token reply by reply; a reply sees its own only.

    Attributes:
        keys: per layer (B, kv_heads, columns, head_dim); the prefix is left-aligned in the first S columns.
        values: likewise.
        lengths: (B,) tokens of each prefix.
        span: S, the longest prefix and a little more.
        width: n, the replies to each prefix; 0 before the first chunk.
        steps: tokens of each reply that are cached.
    """

    keys: list[Tensor]
    values: list[Tensor]
    lengths: Tensor
    span: int
    width: int = 0
    steps: int = 0

    def select(self, rows: Tensor) -> Workspace:
        """Keep some prefixes with their replies, in the given order, and no more columns than the longest needs."""
        lengths = self.lengths[rows]
        span = _rounded(int(lengths.max()))
        # Copied: the products of a view of longer rows are several times slower.
        keys, values = (
            [torch.cat((layer[rows, :, :span], layer[rows, :, self.span :]), 2) for layer in layers]
            for layers in (self.keys, self.values)
        )
        return Workspace(keys, values, lengths, span, self.width, self.steps)

    def reserve(self, width: int, count: int) -> None:
        """Make room for `count` more tokens of each of `width` replies to each prefix."""
        self.width = width
        missing = _rounded(self.span + (self.steps + count) * width) - self.keys[0].shape[2]
        if missing > 0:
            self.keys, self.values = (
                [functional.pad(layer, (0, 0, 0, missing)) for layer in layers] for layers in (self.keys, self.values)
            )


class LlamaTrunk:
    """The decoder layers of a `LlamaModel`, applied to chunks that continue cached prefixes."""

    def __init__(self, model: LlamaModel, *, dtype: torch.dtype, cache_bytes: int) -> None:
        """Take over a model's weights (they are cast to `dtype`, as are the caches).

        Raises:
            ModelMismatch: the model is not of the Llama architecture, or has parts that Llama models do not have.
        """
        config: Any = model.config  # transformers declares None for what it fills in itself
        check_engine(config, str(config.name_or_path or "config.json"))
        self.model: Any = cast("torch.nn.Module", model).to(dtype=dtype).eval()
        self.device, self.dtype = model.embed_tokens.weight.device, dtype
        self.layers, self.hidden_size = int(config.num_hidden_layers), int(config.hidden_size)
        self.heads, self.kv_heads = int(config.num_attention_heads), int(config.num_key_value_heads)
        self.head_dim = int(config.head_dim)
        self._cache_bytes = cache_bytes
        self._fused = [_FusedLayer(layer) for layer in model.layers]
        self.forget()

    def forget(self) -> None:
        """Empty the cache of conversations."""
        self.prefixes = PrefixCache(self._cache_bytes)

    @torch.inference_mode()
    def prefill(self, prompts: Sequence[Prompt]) -> tuple[Workspace, Tensor, int]:
        """Bring the caches up to the end of each prompt.

        Returns:
            The gathered prefixes, the hidden state (B, hidden) at the last token of each prompt, and the number of
            tokens that had to be encoded.
        """
        shared = self._encode_shared(prompts)
        known = [self.prefixes.longest(prompt) for prompt in prompts]
        # The last token is always encoded: its hidden state is wanted, and only keys and values are cached.
        starts = [min(length, len(prompt.ids) - 1) for (_, length), prompt in zip(known, prompts, strict=True)]
        longest = _rounded(max(len(prompt.ids) for prompt in prompts))
        shape = (len(prompts), self.kv_heads, longest, self.head_dim)
        space = Workspace(
            [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self._fused],
            [torch.zeros(shape, dtype=self.dtype, device=self.device) for _ in self._fused],
            torch.tensor([len(prompt.ids) for prompt in prompts], device=self.device),
            longest,
        )
        for row, (slot, length) in enumerate(known):
            if slot is not None:
                for layer in range(len(self._fused)):
                    space.keys[layer][row, :, :length] = slot.cache[layer, 0, :, :length]
                    space.values[layer][row, :, :length] = slot.cache[layer, 1, :, :length]
        last = torch.empty(len(prompts), self.hidden_size, dtype=self.dtype, device=self.device)
        for rows in _groups(prompts, starts):
            last[rows] = self._prefill_group(prompts, starts, rows, space)
        self._remember(prompts, known, space)
        return space, last, shared + sum(len(prompt.ids) for prompt in prompts) - sum(starts)

    def _encode_shared(self, prompts: Sequence[Prompt]) -> int:
        """Encode once what several prompts begin with and no slot holds; return the number of encoded tokens.

        Episodes of one environment begin with the same instruction, and rollouts of one task also with the same
        observation: the beginnings of these beginnings are shared in their turn.
        """
        fresh: list[list[Prompt]] = []
        for prompt in prompts:
            known = self.prefixes.longest(prompt)[1]
            ends = [number for number, end in enumerate(prompt.boundaries, 1) if end - known >= SHARED_TOKENS]
            fresh.append([Prompt(prompt.ids[: prompt.boundaries[n - 1]], prompt.boundaries[:n]) for n in ends])
        count = Counter(itertools.chain.from_iterable(fresh))
        # The longest one of each prompt; a dict keeps the order of the prompts, a set would not.
        longest = ([beginning for beginning in beginnings if count[beginning] > 1][-1:] for beginnings in fresh)
        missing = list(dict.fromkeys(itertools.chain.from_iterable(longest)))
        return self.prefill(missing)[2] if missing else 0

    def _prefill_group(
        self, prompts: Sequence[Prompt], starts: list[int], rows: list[int], space: Workspace
    ) -> Tensor:
        """Encode the new tokens of a few rows of similar size into the workspace; return their last hidden states."""
        news = [prompts[row].ids[starts[row] :] for row in rows]
        width, end = max(map(len, news)), _rounded(max(len(prompts[row].ids) for row in rows))
        furthest = max(starts[row] for row in rows)
        ids = torch.tensor([[*new, *[0] * (width - len(new))] for new in news], device=self.device)  # (B, T)
        begin = torch.tensor([starts[row] for row in rows], device=self.device)
        count = torch.tensor([len(new) for new in news], device=self.device)
        positions = begin[:, None] + torch.arange(width, device=self.device)  # (B, T)
        ahead = torch.arange(end, device=self.device) > positions[..., None]  # (B, T, S): causal over the cache
        bias = _bias(ahead, self.dtype)[:, None, None]  # (B, 1, 1, T, S)
        real = torch.arange(width, device=self.device) < count[:, None]  # (B, T)
        ends = torch.arange(len(rows), device=self.device), count - 1
        batch_index = torch.tensor(rows, device=self.device)[:, None].expand(-1, width)[real]
        place = positions[real]
        x = self.model.embed_tokens(ids)
        cos, sin = self.model.rotary_emb(x, position_ids=positions)
        for number, layer in enumerate(self._fused):
            query, key, value = layer.project(x, cos, sin, self.heads, self.kv_heads, self.head_dim)
            space.keys[number][batch_index, :, place] = key[real]
            space.values[number][batch_index, :, place] = value[real]
            keys, values = space.keys[number][rows, :, :end], space.values[number][rows, :, :end]
            if number == len(self._fused) - 1:  # only the last token's state is wanted
                query, x, bias = query[ends][:, None], x[ends][:, None], bias[ends[0], :, :, ends[1]][:, :, :, None]
            x = layer.finish(x, self._over_cache(query, keys, values, bias, furthest))
        hidden: Tensor = self.model.norm(x[:, 0])
        return hidden

    def _over_cache(self, query: Tensor, keys: Tensor, values: Tensor, bias: Tensor, furthest: int) -> Tensor:
        """Attend from new tokens to a cache that holds them already; return (B, T, heads*D).

        Args:
            query: (B, T, heads, D).
            keys: (B, kv_heads, S, D).
            values: (B, kv_heads, S, D).
            bias: (B, 1, 1, T, S), added to the scores.
            furthest: no query but the last block's looks further than this and its own number.
        """
        count, end = query.shape[1], keys.shape[2]
        mixed = []
        for first in range(0, count, PREFILL_QUERIES):
            last = min(first + PREFILL_QUERIES, count)
            reach = end if last == count else min(end, _rounded(furthest + last))
            rows = _by_kv_head(query[:, first:last], self.kv_heads)  # (B, kv, g*t, D)
            # Copied where it is a view: products of strided bf16 tensors are several times slower on a CPU.
            seen, read = keys[:, :, :reach].contiguous(), values[:, :, :reach].contiguous()
            scores = (rows @ seen.transpose(-1, -2)).unflatten(2, (-1, last - first))  # (B, kv, g, t, S)
            weights = scores.add_(bias[..., first:last, :reach]).softmax(-1).flatten(2, 3)  # summed in float32 inside
            block = (weights @ read).unflatten(2, (-1, last - first))  # (B, kv, g, t, D)
            mixed.append(block.permute(0, 3, 1, 2, 4).flatten(2))
        return torch.cat(mixed, 1)

    def _remember(self, prompts: Sequence[Prompt], known: list[tuple[Slot | None, int]], space: Workspace) -> None:
        """Store each prompt up to its last message end, so that the next turn finds it."""
        for row, prompt in enumerate(prompts):
            length = prompt.boundaries[-1]
            if known[row][1] == length:
                continue
            layers = [
                torch.stack((space.keys[n][row, :, :length], space.values[n][row, :, :length]))
                for n in range(len(self._fused))
            ]
            self.prefixes.put(prompt, torch.stack(layers))

    @torch.inference_mode()
    def extend(self, space: Workspace, ids: Tensor, read: Tensor | None = None) -> Tensor:
        """Run the next chunk of several replies to each prefix; the prefix is read once for all of them.

        Args:
            space: B prefixes, and what their replies have cached so far, which grows by T tokens each.
            ids: (B, n, T) the next tokens of n replies to each.
            read: (B, n) the only position of each reply in this chunk whose state is wanted; None: all.

        Returns:
            Hidden states (B, n, T, hidden), or (B, n, 1, hidden) where `read` is given.
        """
        batch, width, count = ids.shape
        space.reserve(width, count)
        ahead = torch.arange(space.steps, space.steps + count, device=self.device)  # (T,)
        bias = self._columns_seen(space, ahead)
        x = self.model.embed_tokens(ids.flatten(0, 1))  # (B*n, T, hidden)
        positions = (space.lengths[:, None, None] + ahead).expand(batch, width, count).flatten(0, 1)
        cos, sin = self.model.rotary_emb(x, position_ids=positions)
        first = space.span + space.steps * width
        new = slice(first, first + count * width)
        for number, layer in enumerate(self._fused):
            query, key, value = layer.project(x, cos, sin, self.heads, self.kv_heads, self.head_dim)
            keys, values = space.keys[number], space.values[number]
            keys[:, :, new] = key.unflatten(0, (batch, width)).permute(0, 3, 2, 1, 4).flatten(2, 3)
            values[:, :, new] = value.unflatten(0, (batch, width)).permute(0, 3, 2, 1, 4).flatten(2, 3)
            if read is not None and number == len(self._fused) - 1:
                at = torch.arange(len(x), device=self.device), read.flatten()
                query, x, bias = query[at][:, None], x[at][:, None], bias.flatten(0, 1)[at][:, None]
                bias = bias.unflatten(0, (batch, width))  # (B, n, 1, columns)
            asked = query.unflatten(0, (batch, width)).unflatten(3, (self.kv_heads, -1))  # (B, n, T, kv, g, D)
            rows = asked.permute(0, 3, 1, 2, 4, 5)  # the heads that share keys become rows of one product
            scores = (rows.flatten(2, 4) @ keys.transpose(-1, -2)).unflatten(2, rows.shape[2:5])
            weights = scores.add_(bias[:, None, :, :, None]).softmax(-1)  # (B, kv, n, T, g, columns)
            mixed = (weights.flatten(2, 4) @ values).unflatten(2, rows.shape[2:5]).permute(0, 2, 3, 1, 4, 5)
            x = layer.finish(x, mixed.flatten(3).flatten(0, 1))  # from (B*n, T, heads*D)
        space.steps += count
        states: Tensor = self.model.norm(x).unflatten(0, (batch, width))
        return states

    def _columns_seen(self, space: Workspace, ahead: Tensor) -> Tensor:
        """Return what to add to the scores (B, n, T, columns) of the tokens with the numbers `ahead` (T,) of each reply."""
        place = torch.arange(space.keys[0].shape[2], device=self.device) - space.span
        step, reply = place.div(space.width, rounding_mode="floor"), place.remainder(space.width)
        other = reply != torch.arange(space.width, device=self.device)[:, None, None]
        of_others = (place >= 0) & (other | (step > ahead[:, None]))  # (n, T, columns)
        missing = (place < 0) & (place + space.span >= space.lengths[:, None])  # (B, columns)
        return _bias(missing, self.dtype)[:, None, None] + _bias(of_others, self.dtype)


class _FusedLayer:
    """One decoder layer with its projections joined: three matrix products become one, two become one."""

    def __init__(self, layer: Any) -> None:
        attention, mlp = layer.self_attn, layer.mlp
        self.qkv = _product(_joined(attention.q_proj, attention.k_proj, attention.v_proj))
        self.up = _product(_joined(mlp.gate_proj, mlp.up_proj))
        self.out, self.down = _product(attention.o_proj.weight), _product(mlp.down_proj.weight)
        self.norm_in, self.norm_mlp = layer.input_layernorm, layer.post_attention_layernorm

    def project(
        self, x: Tensor, cos: Tensor, sin: Tensor, heads: int, kv_heads: int, head_dim: int
    ) -> tuple[Tensor, Tensor, Tensor]:
        """Return rotated queries (B, T, heads, D), already divided by sqrt(D), rotated keys and values (B, T, kv_heads, D)."""
        joined = self.qkv(self.norm_in(x)).unflatten(-1, (-1, head_dim))
        both, value = joined.split((heads + kv_heads, kv_heads), dim=2)
        cos, sin = cos[:, :, None], sin[:, :, None]
        query, key = (both * cos + _rotate_half(both) * sin).split((heads, kv_heads), dim=2)
        return query * head_dim**-0.5, key, value

    def finish(self, x: Tensor, mixed: Tensor) -> Tensor:
        """Add attention's output and the feed-forward block to the residual stream."""
        x = x + self.out(mixed)
        gate, up = self.up(self.norm_mlp(x)).chunk(2, dim=-1)
        return x + self.down(functional.silu(gate) * up)


def _joined(*projections: Any) -> Tensor:
    """Return the weights of some projections one above the other; the projections now hold parts of it, not a copy."""
    whole = torch.cat([one.weight for one in projections]).detach()
    for one, part in zip(projections, whole.split([len(one.weight) for one in projections]), strict=True):
        one.weight.data = part
    return whole


def _product(weight: Tensor) -> Callable[[Tensor], Tensor]:
    """Return the product with a weight; for x86 processors the weight is laid out for oneDNN once, and not at each call.

    With bf16 the sums stay the same to the bit, and a product of few rows takes up to a third less time; with fp32, where torch
    would call MKL, 32 rows and more take half the time and the last bits differ.
    """
    weight = weight.detach()
    x86 = torch.backends.cpu.get_cpu_capability().startswith("AVX") and torch.backends.mkldnn.is_available()
    supported = weight.dtype == torch.float32 or torch.ops.mkldnn._is_mkldnn_bf16_supported()
    if weight.device.type != "cpu" or not x86 or not supported:
        return lambda x: functional.linear(x, weight)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, PACKED_ROWS)
    return lambda x: cast("Tensor", torch.ops.mkldnn._linear_pointwise(x, packed, None, "none", [], ""))


def _rounded(length: int) -> int:
    return -(-length // COLUMNS) * COLUMNS


def _rotate_half(x: Tensor) -> Tensor:
    first, second = x.chunk(2, dim=-1)
    return torch.cat((-second, first), dim=-1)


def _bias(hidden: Tensor, dtype: torch.dtype) -> Tensor:
    """Return what to add to scores: 0, and minus infinity where hidden. Several times faster than `masked_fill`."""
    return torch.zeros(hidden.shape, dtype=dtype, device=hidden.device).masked_fill_(hidden, float("-inf"))


def _by_kv_head(query: Tensor, kv_heads: int) -> Tensor:
    """Reshape (B, T, heads, D) to (B, kv_heads, g*T, D): the heads that share keys become rows of one product."""
    rows: Tensor = query.unflatten(2, (kv_heads, -1)).permute(0, 2, 3, 1, 4).flatten(2, 3)
    return rows


def _groups(prompts: Sequence[Prompt], starts: list[int]) -> list[list[int]]:
    """Group rows of similar work for prefill, so that little is padding."""
    order = sorted(range(len(prompts)), key=lambda row: (len(prompts[row].ids) - starts[row], len(prompts[row].ids)))
    groups: list[list[int]] = []
    for row in order:
        size = len(prompts[row].ids) - starts[row]
        if groups and (len(groups[-1]) + 1) * size <= PREFILL_TOKENS:
            groups[-1].append(row)
        else:
            groups.append([row])
    return groups
