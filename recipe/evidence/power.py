"""The number of pairs needed to detect a difference of a given size."""

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
    """The total number of pairs needed to detect a true difference of this size.

    By the power of the two-sided paired t test (the noncentral t distribution with noncentrality
    sqrt(n) * difference / sd), at the largest p-value up to level / tests that `sign_flip_test`
    can return for n pairs; `sd` is the standard deviation of the paired differences. At least
    `min_seeds_for_significance`; None for more than `MAX_SEEDS`. An sd estimated from few pairs is
    uncertain, and so is the result. Raises ValueError for an sd below 0 or a difference of 0.
    """
    if not 0 <= sd < math.inf:
        raise ValueError(f"sd must be a number of at least 0, got {sd}")
    if not 0 < abs(difference) < math.inf:
        raise ValueError(f"difference must be a number other than 0, got {difference}")
    check_fraction("power", power)
    minimum = min_seeds_for_significance(tests, level)
    if sd == 0:
        return minimum

    def is_enough(n: int) -> bool:
        return _t_test_power(n, abs(difference) / sd, _max_attainable_p(n, level / tests)) >= power

    found = bisect.bisect_left(range(MAX_SEEDS + 1), True, lo=max(2, minimum), key=is_enough)
    return found if found <= MAX_SEEDS else None


def _max_attainable_p(n: int, level: float) -> float:
    """The largest p-value up to `level` that `sign_flip_test` can return for n pairs; doesn't
    decrease with n."""
    step = 2.0 ** -min(n - 1, MAX_EXACT_DIFFERENCES)
    return math.floor(level / step) * step


def _t_test_power(n: int, effect: float, level: float) -> float:
    """The power of a two-sided t test of n values whose mean is `effect` standard deviations."""
    critical = float(stdtrit(n - 1, 1 - level / 2))
    # nctdtr returns nan for a tail below 1e-15
    below, opposite = np.nan_to_num(nctdtr(n - 1, math.sqrt(n) * effect, [critical, -critical]))
    return float(1 - below + opposite)
