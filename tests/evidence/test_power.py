"""The number of pairs needed: against scipy and a textbook."""

from __future__ import annotations

import math
from fractions import Fraction

import pytest
from scipy import stats

from recipe.evidence.multiple_testing import min_seeds_for_significance
from recipe.evidence.power import required_seeds


def power_by_scipy(n: int, effect: float, level: float) -> float:
    edge, shift = stats.t.isf(level / 2, n - 1), math.sqrt(n) * effect
    return float(stats.nct.sf(edge, n - 1, shift) + stats.nct.cdf(-edge, n - 1, shift))


def test_required_seeds_is_the_smallest_number_with_the_power() -> None:
    # 34 pairs for half a standard deviation (Cohen 1988, G*Power)
    assert required_seeds(1.0, 0.5) == 34
    for effect in (0.1, 0.3, 0.6, 1.0):
        for tests in (1, 4):
            found = required_seeds(2.0, -2.0 * effect, tests)
            assert found is not None
            # the largest p-value of the exact test up to the level
            levels = {
                n: int(Fraction(0.05 / tests) * 2 ** (n - 1)) / 2 ** (n - 1)
                for n in (found - 1, found)
            }
            assert power_by_scipy(found, effect, levels[found]) >= 0.8
            assert found == min_seeds_for_significance(tests) or (
                power_by_scipy(found - 1, effect, levels[found - 1]) < 0.8
            )
    assert required_seeds(0.8, 1.0, power=0.95) == 11


def test_required_seeds_are_enough_for_a_verdict_and_bounded() -> None:
    assert [required_seeds(sd, 1.0, tests=4) for sd in (0.0, 1e-300, 1e-9, 1e-3, 0.1)] == [8] * 5
    assert required_seeds(1.0, 0.01) is None
    assert required_seeds(1.0, 0.0281) == 9943
    for sd, difference in [(-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, math.nan)]:
        with pytest.raises(ValueError, match="must be a number"):
            required_seeds(sd, difference)
