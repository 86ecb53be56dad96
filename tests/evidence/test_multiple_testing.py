"""Holm's correction, and the number of pairs that it requires."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from recipe.evidence.multiple_testing import (
    can_reach_significance,
    holm_correction,
    min_seeds_for_significance,
)
from recipe.evidence.paired_test import sign_flip_test

P = st.floats(0, 1, allow_subnormal=False)


def test_holm_correction_matches_hand_computed_values() -> None:
    # sorted: 0.01 * 4, 0.02 * 3, 0.03 * 2 (at least the previous 0.06), 0.4 * 1
    assert holm_correction([0.03, 0.4, 0.01, 0.02]) == pytest.approx([0.06, 0.4, 0.04, 0.06])
    assert holm_correction([0.7, 0.6]) == [1.0, 1.0]
    assert holm_correction([0.2]) == [0.2]
    assert holm_correction([]) == []
    with pytest.raises(ValueError, match="within"):
        holm_correction([0.1, math.nan])


@given(st.lists(P, min_size=1, max_size=8))
def test_holm_correction_is_monotone_and_at_most_bonferroni(p_values: list[float]) -> None:
    found = holm_correction(p_values)
    for p, adjusted in zip(p_values, found, strict=True):
        assert p <= adjusted <= min(1.0, len(p_values) * p)
    assert min(found) == min(1.0, len(p_values) * min(p_values))
    pairs = sorted(zip(p_values, found, strict=True))
    assert [adjusted for _, adjusted in pairs] == sorted(found)


@given(st.lists(P, min_size=1, max_size=6), st.floats(0.01, 0.5))
def test_holm_correction_matches_the_step_down_procedure(
    p_values: list[float], level: float
) -> None:
    rejected = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if (len(p_values) - step) * p_values[index] > level:
            break
        rejected.add(index)
    assert {
        i for i, adjusted in enumerate(holm_correction(p_values)) if adjusted <= level
    } == rejected


def test_min_seeds_is_the_smallest_number_reaching_significance() -> None:
    assert [min_seeds_for_significance(tests) for tests in range(1, 7)] == [6, 7, 7, 8, 8, 8]
    for tests in range(1, 30):
        fewest = min_seeds_for_significance(tests)
        smallest = [holm_correction([sign_flip_test([1.0] * n)] + [1.0] * (tests - 1))[0]
                    for n in (fewest - 1, fewest)]  # fmt: skip
        assert smallest[0] > 0.05 >= smallest[1]
    assert min_seeds_for_significance(1, level=0.01) == 8
    with pytest.raises(ValueError, match="tests"):
        min_seeds_for_significance(0)


def test_fewer_seeds_suffice_beside_significant_tricks_with_more() -> None:
    # 6 pairs give at best 2 / 2**6 = 0.03125: times 1 next to a significant trick, else times 2
    assert can_reach_significance([2 / 2**10, 1.0], 1, pairs=6)
    assert not can_reach_significance([0.5, 1.0], 1, pairs=6)
    # 0.03 is smaller, but not significant itself, as it is multiplied by 2
    assert not can_reach_significance([0.03, 1.0], 1, pairs=6)
    assert not can_reach_significance([0.0, 1.0], 1, pairs=5)
    for tests in range(1, 30):
        fewest, p_values = min_seeds_for_significance(tests), [0.5] * tests
        reached = [can_reach_significance(p_values, 0, n) for n in (fewest - 1, fewest)]
        assert reached == [False, True]
