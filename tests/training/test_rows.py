from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from qlass.errors import DataError
from qlass.training.core.batches import epoch_batches, micro_batches
from qlass.training.core.collate import collate
from qlass.training.core.loop import learning_rate
from qlass.training.core.rows import load_rows, make_row, rows_digest, save_rows


def test_a_row_ends_at_its_last_supervised_position() -> None:
    row = make_row([5, 6, 7, 8, 9], [1, 2], [7, 8])
    assert row.ids.tolist() == [5, 6, 7]
    assert row.weights.tolist() == [1.0, 1.0]


@pytest.mark.parametrize(("positions", "targets"), [([], []), ([0], []), ([3], [1.0]), ([-1], [1.0])])
def test_a_row_that_is_none_is_refused(positions: list[int], targets: list[float]) -> None:
    with pytest.raises(DataError):
        make_row([1, 2, 3], positions, targets)


def test_collate_exactly() -> None:
    batch = collate([make_row([5, 6, 7], [0, 2], [6, 1], [0.5, 2]), make_row([8, 9], [1], [3])])
    assert batch.ids.tolist() == [[5, 6, 7], [8, 9, 0]]
    assert batch.rows.tolist() == [0, 0, 1]
    assert batch.positions.tolist() == [0, 2, 1]
    assert batch.targets.tolist() == [6.0, 1.0, 3.0]
    assert batch.weights.tolist() == [0.5, 2.0, 1.0]


def test_observations_share_the_weight_of_their_row() -> None:
    rows = [make_row([5, 6, 7, 8], [0, 1], [1, 0], [0.5, 1.5], [2, 3]), make_row([8, 9], [0], [3], observed=[])]
    assert rows[0].ids.tolist() == [5, 6, 7, 8]
    batch = collate(rows)
    assert batch.observed is not None
    assert [part.tolist() for part in batch.observed] == [[0, 0], [2, 3], [1.0, 1.0]]
    assert len(batch.inputs(torch.device("cpu"))) == 8
    assert len(collate([make_row([5, 6], [0], [1])]).inputs(torch.device("cpu"))) == 5


def test_rows_survive_the_disk(tmp_path: Path) -> None:
    rows = [make_row([5, 6, 7], [0, 2], [6, 1], [0.5, 2]), make_row([8, 9], [1], [0.1])]
    save_rows(tmp_path / "rows.safetensors", rows)
    back = load_rows(tmp_path / "rows.safetensors")
    assert rows_digest(back) == rows_digest(rows) != rows_digest(rows[::-1])
    assert [row.ids.tolist() for row in back] == [[5, 6, 7], [8, 9]]
    assert all(row.observed is None for row in back)
    save_rows(
        tmp_path / "rows.safetensors",
        [replace(rows[0], observed=np.array([1, 2])), replace(rows[1], observed=rows[1].ids[:0])],
    )
    observed = [row.observed for row in load_rows(tmp_path / "rows.safetensors")]
    assert [part.tolist() for part in observed if part is not None] == [[1, 2], []]


def test_an_epoch_holds_every_row_once_and_depends_on_seed_and_epoch_only() -> None:
    lengths = [7 * number % 5 for number in range(21)]
    batches = epoch_batches(lengths, 8, seed=3, epoch=1)
    assert sorted(len(batch) for batch in batches) == [5, 8, 8]
    assert sorted(row for batch in batches for row in batch) == list(range(21))
    assert batches == epoch_batches(lengths, 8, seed=3, epoch=1)
    assert batches != epoch_batches(lengths, 8, seed=3, epoch=2) != epoch_batches(lengths, 8, seed=4, epoch=2)


def test_batches_hold_rows_of_similar_length_but_not_the_same_rows_each_epoch() -> None:
    lengths = [100 + 37 * number % 300 for number in range(320)]
    epochs = [epoch_batches(lengths, 2, seed=0, epoch=epoch) for epoch in range(2)]
    spread = [abs(lengths[one] - lengths[other]) for one, other in epochs[0]]
    assert sum(spread) / len(spread) < 15  # about 100 for pairs drawn at random
    assert len({frozenset(pair) for pair in epochs[0]} & {frozenset(pair) for pair in epochs[1]}) < 20
    firsts = [lengths[batch[0]] for batch in epochs[0]]
    assert firsts != sorted(firsts)


def test_micro_batches_hold_rows_of_similar_length() -> None:
    lengths = {0: 100, 1: 95, 2: 50, 3: 49, 4: 48, 5: 400}
    assert micro_batches(list(lengths), lengths, 200, 4, 0, 1) == [[5], [0, 1], [2, 3, 4]]
    assert micro_batches(list(lengths), lengths, 200, 1, 0, 1) == [[5], [0], [1], [2], [3], [4]]


def test_ranks_share_a_batch_in_equally_many_micro_batches() -> None:
    lengths = {number: 10 * number + 10 for number in range(7)}
    shares = [micro_batches(list(lengths), lengths, 1, 1, rank, 3) for rank in range(3)]
    assert {len(share) for share in shares} == {3}
    assert sorted(row for share in shares for chunk in share for row in chunk) == list(range(7))


def test_learning_rate_rises_to_the_peak_and_falls() -> None:
    rates = [learning_rate(step, 100, 2.0, 0.1) for step in range(100)]
    assert rates[0] == pytest.approx(0.2)
    assert max(rates) == rates[9] == rates[10] == 2.0
    assert np.all(np.diff(rates[10:]) < 0)
    assert 0 < rates[-1] < 0.01
    assert learning_rate(0, 1, 2.0, 0.0) == 2.0


@given(
    lengths=st.lists(st.integers(1, 60), min_size=1, max_size=24),
    batch_size=st.integers(1, 5),
    ranks=st.integers(1, 3),
)
def test_groups_stay_together_in_order(lengths: list[int], batch_size: int, ranks: int) -> None:
    lengths = [length for length in lengths for _ in range(2)]  # pairs of equal rows: batched as single rows are
    pairs = epoch_batches(lengths, batch_size, seed=5, epoch=0, together=2)
    single = epoch_batches(lengths[::2], batch_size, seed=5, epoch=0)
    assert pairs == [[row for group in batch for row in (2 * group, 2 * group + 1)] for batch in single]
    for batch in pairs:
        shares = [micro_batches(batch, lengths, 80, 6, rank, ranks, together=2) for rank in range(ranks)]
        assert len({len(share) for share in shares}) == 1
        chunks = [chunk for share in shares for chunk in share]
        assert sorted(row for chunk in chunks for row in chunk) == sorted(batch)
        for chunk in chunks:
            assert chunk == [row for first in chunk[::2] for row in (first, first + 1)]
            assert len(chunk) <= 6
            assert len(chunk) <= 2 or max(lengths[row] for row in chunk) * len(chunk) <= 80


def test_a_group_is_as_long_as_its_longest_row() -> None:
    assert micro_batches([0, 1, 2, 3], [10, 50, 48, 2], 1000, 8, 0, 1, together=2) == [[0, 1, 2, 3]]
    assert micro_batches([0, 1, 2, 3], [10, 50, 40, 39], 1000, 8, 0, 1, together=2) == [[0, 1], [2, 3]]
