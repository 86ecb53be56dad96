"""The number of pairs that it takes to detect a difference of a given size."""

from __future__ import annotations

import bisect
import math

import numpy as np
from scipy.special import nctdtr, stdtrit

from recipe.evidence.intervals import check_fraction
from recipe.evidence.multiple_testing import min_seeds_for_significance
from recipe.evidence.paired_test import MAX_EXACT_DIFFERENCES

MAX_SEEDS = 10_000


def required_seeds(
    sd: float, difference: float, tests: int = 1, level: float = 0.05, power: float = 0.8
) -> int | None:
    """The pairs it takes in all to find a true difference of this size with this power.

    By the power of the two-sided paired t test (the noncentral t distribution, with
    sqrt(n) * difference / sd), at the largest p up to level / tests that `sign_flip_test` of n
    pairs can
    have; `sd` is that of the paired differences. Never fewer than `min_seeds_for_significance`;
    None if it takes
    more than `MAX_SEEDS`. As an sd from few pairs is itself uncertain, so is the answer. Raises
    ValueError for an sd below 0 or a difference of 0.
    """
    if not 0 <= sd < math.inf:
        raise ValueError(f"sd must be a number from 0 on, got {sd}")
    if not 0 < abs(difference) < math.inf:
        raise ValueError(f"difference must be a number other than 0, got {difference}")
    check_fraction("power", power)
    least = min_seeds_for_significance(tests, level)
    if sd == 0:
        return least

    def enough(n: int) -> bool:
        return _t_test_power(n, abs(difference) / sd, _max_attainable_p(n, level / tests)) >= power

    found = bisect.bisect_left(range(MAX_SEEDS + 1), True, lo=max(2, least), key=enough)
    return found if found <= MAX_SEEDS else None


def _max_attainable_p(n: int, level: float) -> float:
    """The largest p up to `level` that `sign_flip_test` of n pairs can have; no less with more
    pairs."""
    step = 2.0 ** -min(n - 1, MAX_EXACT_DIFFERENCES)
    return math.floor(level / step) * step


def _t_test_power(n: int, effect: float, level: float) -> float:
    """How often a two-sided t test of n values finds a mean of `effect` standard deviations."""
    edge = float(stdtrit(n - 1, 1 - level / 2))
    # scipy gives nan where a tail is below 1e-15
    missed, wrong_side = np.nan_to_num(nctdtr(n - 1, math.sqrt(n) * effect, [edge, -edge]))
    return float(1 - missed + wrong_side)
