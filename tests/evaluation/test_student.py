"""Student's quantiles against the printed table."""

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from qlass.evaluation.student import student_quantile


@pytest.mark.parametrize(
    ("confidence", "degrees", "quantile"),
    [
        # NIST/SEMATECH e-Handbook of Statistical Methods, section 1.3.6.7.2 (its columns are one-sided)
        (0.95, 1, 12.706),
        (0.95, 2, 4.303),
        (0.95, 3, 3.182),
        (0.95, 4, 2.776),
        (0.95, 9, 2.262),
        (0.95, 30, 2.042),
        (0.95, 99, 1.984),
        (0.90, 5, 2.015),
        (0.99, 2, 9.925),
        (0.99, 7, 3.499),
    ],
)
def test_the_printed_table(confidence, degrees, quantile):
    assert student_quantile(confidence, degrees) == pytest.approx(quantile, abs=5e-4)


@given(st.floats(0.01, 0.999))
def test_one_and_two_degrees_have_closed_forms(confidence):
    # P(|T| <= t) is 2 atan(t) / pi with one degree of freedom and t / sqrt(2 + t^2) with two.
    assert student_quantile(confidence, 1) == pytest.approx(math.tan(math.pi * confidence / 2), rel=1e-9)
    assert student_quantile(confidence, 2) == pytest.approx(confidence * math.sqrt(2 / (1 - confidence**2)), rel=1e-9)


@given(st.floats(0.01, 0.999), st.integers(1, 60))
def test_more_runs_and_less_confidence_make_it_smaller(confidence, degrees):
    quantile = student_quantile(confidence, degrees)
    assert student_quantile(confidence, degrees + 1) < quantile
    assert student_quantile(confidence * 0.99, degrees) < quantile
