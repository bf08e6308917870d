import pytest

from qlass.qnet.metrics import ScoredNode, calibration_table, qnet_metrics, siblings_table, spearman

import numpy as np  # isort: skip


def family(task: str, parent: int, depth: int, pairs: list[tuple[float, float]]) -> list[ScoredNode]:
    return [ScoredNode(task, parent, depth, target, predicted) for target, predicted in pairs]


NODES = [
    *family("a", -1, 1, [(1.0, 0.9), (0.0, 0.1), (0.0, 0.3)]),  # both pairs right; the equal targets do not count
    *family("a", 0, 2, [(1.0, 0.2), (0.0, 0.4)]),  # wrong
    *family("b", -1, 1, [(0.5, 0.5), (0.0, 0.5)]),  # a tie
    *family("b", 0, 2, [(0.3, 0.9)]),  # alone
    *family("b", 1, 2, [(0.5, 0.1), (0.5, 0.2)]),  # nothing to order
]


def test_numbers_of_a_worked_example() -> None:
    found = qnet_metrics(NODES, 0.4, resamples=200, confidence=0.95, seed=0)
    assert found["validation_tasks"] == 2
    assert found["validation_nodes"] == 10
    assert found["pairwise_pairs"] == 4
    assert found["pairwise_accuracy"] == pytest.approx(2.5 / 4)
    assert (found["pairwise_low"], found["pairwise_high"]) == pytest.approx((0.5, 2 / 3))
    assert found["rank_groups"] == 3
    assert found["rank_correlation"] == pytest.approx(
        (spearman(np.array([1, 0, 0.0]), np.array([0.9, 0.1, 0.3])) - 1) / 3
    )
    assert found["mse"] == pytest.approx(np.mean([(node.target - node.predicted) ** 2 for node in NODES]))
    assert found["baseline_mse"] == pytest.approx(np.mean([(node.target - 0.4) ** 2 for node in NODES]))


def test_invalid_siblings_should_have_the_lower_value() -> None:
    def node(parent: int, predicted: float, *, valid: bool) -> ScoredNode:
        return ScoredNode("a", parent, 1, 0.5, predicted, valid)

    nodes = [
        *(node(-1, 0.2, valid=False), node(-1, 0.3, valid=True), node(-1, 0.1, valid=True)),  # one right, one wrong
        *(node(0, 0.4, valid=False), node(0, 0.4, valid=True)),  # a tie
        *(node(1, 0.4, valid=False), node(1, 0.9, valid=False)),  # nothing to tell apart
    ]
    found = qnet_metrics(nodes, 0.4, resamples=10, confidence=0.95, seed=0)
    assert (found["invalid_accuracy"], found["invalid_pairs"]) == (pytest.approx(1.5 / 3), 3)
    assert found["pairwise_pairs"] == 0


def test_siblings_by_depth() -> None:
    assert [
        (row["depth"], row["n_pairs"], row["pairwise_accuracy"], row["n_groups"]) for row in siblings_table(NODES)
    ] == [
        (1, 3, pytest.approx(2.5 / 3), 2),
        (2, 1, 0.0, 1),
    ]


def test_nothing_to_compare_is_none_not_zero() -> None:
    found = qnet_metrics(NODES[7:8], 0.4, resamples=10, confidence=0.95, seed=0)
    assert [found[key] for key in ("pairwise_accuracy", "pairwise_low", "pairwise_high", "rank_correlation")] == [
        None
    ] * 4
    assert siblings_table(NODES[7:8]) == []


def test_calibration_puts_what_is_outside_into_the_last_bins() -> None:
    table = calibration_table(family("a", -1, 1, [(0.2, -0.3), (0.4, 0.05), (1.0, 1.0), (0.9, 7.0)]))
    assert len(table) == 10
    assert table[0] == {
        "bin_low": 0.0, "bin_high": 0.1, "n": 2, "mean_predicted": pytest.approx(-0.125), "mean_target": pytest.approx(0.3)
    }  # fmt: skip
    assert table[9]["n"] == 2
    assert table[5]["mean_target"] is None


@pytest.mark.parametrize(
    ("left", "right", "wanted"),
    [([1, 2, 3], [10, 20, 30], 1.0), ([1, 2, 3], [3, 2, 1], -1.0), ([1, 1], [1, 2], 0.0), ([1, 2, 2], [1, 2, 2], 1.0)],
)
def test_spearman(left: list[float], right: list[float], wanted: float) -> None:
    assert spearman(np.array(left, float), np.array(right, float)) == pytest.approx(wanted)
