"""Which rows are trained together, and in what order: a pure function of (seed, epoch)."""

from __future__ import annotations

import random
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeAlias

from qlass.seeds import derive_seed

_SIMILAR = 0.9
"""A row joins a micro-batch only if it has this share of the longest row's tokens: more padding costs more than it gains."""

Lengths: TypeAlias = Mapping[int, int] | Sequence[int]
"""Tokens of a row by its number."""

_WINDOW = 16
"""Batches whose rows are sorted by length before they are cut: few, so that nearly every pair of rows can meet."""


def epoch_batches(
    lengths: Sequence[int], batch_size: int, seed: int, epoch: int, together: int = 1
) -> list[list[int]]:
    """Shuffle rows and cut them into optimizer batches of similar lengths; one of them may be smaller.

    Rows are shuffled, sorted by length inside windows of 16 batches, and the batches shuffled again (the idea of
    `group_by_length` in transformers). A small batch then is one forward pass without padding: rows drawn at random
    rarely have similar lengths, and would be trained one by one.

    Args:
        lengths: tokens of each row.
        batch_size: groups of a batch; a group is one row, unless the objective compares several.
        seed: of the run.
        epoch: from 0.
        together: rows of a group, which stay together and in their order; the first rows are the first group.

    Returns:
        Row numbers by batch; each row is in one of them.
    """
    longest = _group_lengths(range(len(lengths)), lengths, together)
    rng = random.Random(derive_seed(seed, "batches", epoch))
    order = list(longest)
    rng.shuffle(order)
    batches = []
    for start in range(0, len(order), _WINDOW * batch_size):
        window = sorted(order[start : start + _WINDOW * batch_size], key=longest.__getitem__)
        batches += [window[first : first + batch_size] for first in range(0, len(window), batch_size)]
    rng.shuffle(batches)
    return [_rows(batch, together) for batch in batches]


def micro_batches(  # noqa: PLR0917  (limits and ranks come in pairs)
    batch: Sequence[int], lengths: Lengths, max_tokens: int, max_rows: int, rank: int, ranks: int, together: int = 1
) -> list[list[int]]:
    """Return this rank's micro-batches of one optimizer batch: rows of similar length, longest first.

    Every rank gets the same number of micro-batches, because each of them is a collective operation: a rank with too
    few repeats [] (which the caller replaces by rows of weight zero).

    Args:
        batch: row numbers, whole groups.
        lengths: tokens of each of these rows.
        max_tokens: of one micro-batch, padding included; a longer group is alone.
        max_rows: of one micro-batch; a larger group is alone.
        rank: which rank asks.
        ranks: how many there are.
        together: as in `epoch_batches`.
    """
    longest = _group_lengths(batch, lengths, together)
    ordered = sorted(longest, key=lambda group: (-longest[group], group))
    limits = max_tokens // together, max(max_rows // together, 1)
    shares = [_chunks(ordered[number::ranks], longest, *limits) for number in range(ranks)]
    most = max(len(share) for share in shares)
    return [_rows(chunk, together) for chunk in shares[rank] + [[]] * (most - len(shares[rank]))]


def _group_lengths(rows: Iterable[int], lengths: Lengths, together: int) -> dict[int, int]:
    """Return the longest row of each group, by the group's number."""
    longest: dict[int, int] = {}
    for row in rows:
        group = row // together
        longest[group] = max(longest.get(group, 0), lengths[row])
    return longest


def _rows(groups: Sequence[int], together: int) -> list[int]:
    """Return the rows of some groups."""
    return [row for group in groups for row in range(group * together, (group + 1) * together)]


def _chunks(ordered: Sequence[int], lengths: Lengths, max_tokens: int, max_rows: int) -> list[list[int]]:
    """Cut groups, longest first, into micro-batches; the limits are those of one row of each group."""
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
