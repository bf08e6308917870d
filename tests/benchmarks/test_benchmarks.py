"""Each benchmark runs at its smallest size. Nothing is asserted about speed: that is for `make bench` on a quiet machine."""

from typing import Any

import pytest

from benchmarks import __main__ as program
from benchmarks import driver, environment, limits, rollout, rows, threads, training

SMALLEST: dict[str, tuple[Any, dict[str, int], set[str]]] = {
    "environment": (
        environment,
        {"games": 1, "episodes": 1, "steps": 4, "branches": 1},
        {f"alfworld_{what} ({engine})" for what in ("step_vs_stock", "branch_vs_replay") for engine in ("textworld", "native")},
    ),
    "training": (
        training,
        {"trees": 1, "trajectories": 2, "rounds": 1},
        {"qnet_train_vs_per_step", "sft_vs_padded", "batches_vs_packing", "deepspeed_vs_torch"},
    ),
    "rollout": (
        rollout,
        {"tasks": 1, "turns": 1, "rounds": 1},
        {"rollout_vs_naive", "rollout_vs_released", "rollout_vs_hf_generate_batch"},
    ),
    "driver": (
        driver,
        {"tasks": 2, "rounds": 1},
        {"overlap (slow environment)", "overlap (fast environment)", "slots"},
    ),
    "limits": (limits, {"trajectories": 1, "rounds": 1}, {"vs_limit (encoding)", "vs_limit (training)"}),
    "threads": (threads, {"trajectories": 2, "rounds": 1}, {"two_threads_beside_neighbour"}),
}  # fmt: skip


def test_every_part_is_tested() -> None:
    assert tuple(SMALLEST) == program.PARTS


@pytest.mark.slow
@pytest.mark.alfworld
@pytest.mark.parametrize("part", SMALLEST)
def test_a_part_runs(part: str) -> None:
    module, sizes, names = SMALLEST[part]
    found = module.rows(**sizes)
    assert {row.name for row in found} == names
    for row in found:
        assert row.ratio == pytest.approx(row.ours / row.other)
        assert row.ours > 0


def test_the_table_has_a_line_per_row() -> None:
    row = rows.Row.of("a_vs_b", 3000.0, 2.0, "things per CPU second", "like this")
    *_, line = program.table([row]).splitlines()
    assert line == "| `a_vs_b` | 1,500.00 | 3,000.0 | 2.0 | things per CPU second | like this |"
