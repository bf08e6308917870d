"""Which rows are trained together, and in what order: a pure function of (seed, epoch)."""

from __future__ import annotations

import random
from collections.abc import Mapping, Sequence

from qlass.seeds import derive_seed

_SIMILAR = 0.9
"""A row joins a micro-batch only if it has this share of the longest row's tokens: more padding costs more than it gains."""


def epoch_batches(count: int, batch_size: int, seed: int, epoch: int) -> list[list[int]]:
    """Shuffle `count` rows and cut them into optimizer batches; the last one may be smaller.

    Rows of a batch are drawn at random, not by length: only the micro-batches inside it are sorted by length, which
    costs nothing (no padding on a CPU, little elsewhere) and keeps every step an unbiased sample.
    """
    order = list(range(count))
    random.Random(derive_seed(seed, "batches", epoch)).shuffle(order)
    return [order[start : start + batch_size] for start in range(0, count, batch_size)]


def micro_batches(
    batch: Sequence[int], lengths: Mapping[int, int], max_tokens: int, max_rows: int, rank: int, ranks: int
) -> list[list[int]]:
    """Return this rank's micro-batches of one optimizer batch: rows of similar length, longest first.

    Every rank gets the same number of micro-batches, because each of them is a collective operation: a rank with too
    few repeats [] (which the caller replaces by a row of weight zero).

    Args:
        batch: row numbers.
        lengths: tokens of each of these rows.
        max_tokens: of one micro-batch, padding included; a longer row is alone.
        max_rows: of one micro-batch.
        rank: which rank asks.
        ranks: how many there are.
    """
    ordered = sorted(batch, key=lambda row: (-lengths[row], row))
    shares = [_chunks(ordered[number::ranks], lengths, max_tokens, max_rows) for number in range(ranks)]
    most = max(len(share) for share in shares)
    return shares[rank] + [[]] * (most - len(shares[rank]))


def _chunks(ordered: Sequence[int], lengths: Mapping[int, int], max_tokens: int, max_rows: int) -> list[list[int]]:
    """Cut rows, longest first, into micro-batches."""
    chunks: list[list[int]] = []
    for row in ordered:
        chunk = chunks[-1] if chunks else []
        longest = lengths[chunk[0]] if chunk else 0
        fits = 0 < len(chunk) < max_rows and longest * (len(chunk) + 1) <= max_tokens
        if fits and lengths[row] >= _SIMILAR * longest:
            chunk.append(row)
        else:
            chunks.append([row])
    return chunks
