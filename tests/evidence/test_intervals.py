"""Confidence intervals: against scipy and a worked example."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recipe.evidence.intervals import t_interval


def test_t_interval_matches_worked_example() -> None:
    # 1..5: mean 3, sd sqrt(10 / 4), t(4 degrees, 97.5 %) = 2.776445; Student's half-width 1.9632
    found = t_interval([1, 2, 3, 4, 5])
    assert (found.mean, found.n) == (3.0, 5)
    assert found.sd == pytest.approx(math.sqrt(2.5))
    assert (found.low, found.high) == pytest.approx((3 - 1.963243, 3 + 1.963243), abs=1e-6)


@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=2, max_size=20),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_t_interval_equals_scipy_interval(values: list[float], level: float) -> None:
    found = t_interval(values, level)
    if len(set(values)) == 1:
        assert (found.low, found.high) == (values[0], values[0])
        return
    theirs = stats.ttest_1samp(values, 0).confidence_interval(level)
    scale = max(map(abs, values))
    assert (found.low, found.high) == pytest.approx(
        (theirs.low, theirs.high), rel=1e-9, abs=1e-9 * scale
    )


def test_equal_values_give_point_interval_and_single_value_gives_none() -> None:
    same = t_interval([0.1] * 7)
    assert (same.mean, same.low, same.high, same.sd, same.n) == (0.1, 0.1, 0.1, 0.0, 7)
    one = t_interval([0.1])
    assert (one.mean, one.n) == (0.1, 1)
    assert all(map(math.isnan, (one.low, one.high, one.sd)))


@pytest.mark.parametrize("wrong", [[], [1.0, math.nan], [math.inf]])
def test_t_interval_rejects_empty_or_nonfinite_values(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least one|finite"):
        t_interval(wrong)
