"""Holm's correction for several tests, and the number of pairs that it requires."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from recipe.evidence.intervals import check_fraction


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction of p-values, returned in their order.

    The smallest is multiplied by the number of tests, the next by one less, and so on; the results
    are monotone and at most 1. Rejecting at most 5 % bounds the family-wise error rate at 5 %, for
    any dependence between the tests. Raises ValueError for a p-value outside [0, 1]. Source: Holm
    1979.
    """
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"a p-value must be within [0, 1], got {wrong[0]}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def min_seeds_for_significance(tests: int, level: float = 0.05) -> int:
    """The fewest pairs with which `sign_flip_test` can reach `level` after `holm_correction`.

    Its smallest p-value, for n differences of one sign, is 2^(1 - n): at 5 %, one test needs 6
    pairs, two or three need 7, four to six need 8. Raises ValueError for fewer than one test.
    """
    if tests < 1:
        raise ValueError(f"tests must be 1 or more, got {tests}")
    check_fraction("level", level)
    return next(n for n in itertools.count(1) if tests * 2.0 ** (1 - n) <= level)


def can_reach_significance(
    p_values: Sequence[float], index: int, pairs: int, level: float = 0.05
) -> bool:
    """Whether the test at `index` could have reached `level` after `holm_correction`, given the
    p-values of the other tests, if all of its differences had one sign.

    Next to significant tests with more pairs, fewer than `min_seeds_for_significance` can suffice.
    """
    smallest = 2.0 ** (1 - pairs)
    return smallest <= level and (
        holm_correction([*p_values[:index], smallest, *p_values[index + 1 :]])[index] <= level
    )
