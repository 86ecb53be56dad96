"""Holm's correction for several tests, and the number of pairs that it requires."""

from __future__ import annotations

import itertools
from collections.abc import Sequence

from recipe.evidence.intervals import check_fraction


def holm_correction(p_values: Sequence[float]) -> list[float]:
    """Holm's step-down correction (1979) of several tests' p, in the order given.

    The smallest is multiplied by the number of tests, the next by one less, and so on; none falls
    below a smaller one's, or rises above 1. Calling shown what is at most 5 % then errs anywhere in
    the family in at most 5 % of families, however the tests depend on each other. Raises ValueError
    for a p outside [0, 1].
    """
    if wrong := [p for p in p_values if not 0 <= p <= 1]:
        raise ValueError(f"a p must be within [0, 1], got {wrong[0]}")
    adjusted, largest = [0.0] * len(p_values), 0.0
    for rank, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        largest = max(largest, min(1.0, (len(p_values) - rank) * p_values[index]))
        adjusted[index] = largest
    return adjusted


def min_seeds_for_significance(tests: int, level: float = 0.05) -> int:
    """The fewest pairs with which `sign_flip_test`, after `holm_correction` over so many tests,
    can reach `level`.

    Its smallest p, that of n differences of one sign, is 2^(1 - n): 6 pairs for one test at 5 %, 7
    for two or three, 8 for four to six. Raises ValueError for less than one test.
    """
    if tests < 1:
        raise ValueError(f"tests must be 1 or more, got {tests}")
    check_fraction("level", level)
    return next(n for n in itertools.count(1) if tests * 2.0 ** (1 - n) <= level)


def can_reach_significance(
    p_values: Sequence[float], index: int, pairs: int, level: float = 0.05
) -> bool:
    """Whether the test at that place, of so many pairs, could have come to `level` after
    `holm_correction`.

    That is, with all of its differences of one sign, beside what the other tests gave. Where these
    have more pairs and are shown themselves, fewer than `min_seeds_for_significance` can do.
    """
    smallest = 2.0 ** (1 - pairs)
    return smallest <= level and (
        holm_correction([*p_values[:index], smallest, *p_values[index + 1 :]])[index] <= level
    )
