"""The exact test of paired differences."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recipe.evidence.intervals import FloatArray, to_finite_array

MAX_EXACT_DIFFERENCES = 40
"""Differences other than 0 up to which every assignment of signs is counted."""

RANDOM_SIGN_FLIPS = 99_999
"""Random assignments of signs, where there are more differences than that."""

RELATIVE_TOLERANCE = 1e-9
"""Sums of differences count as equal if they are no further apart than this share of the sum of
their sizes: accuracies are fractions, and what is equal on paper differs in its last bits."""


def sign_flip_test(differences: Sequence[float]) -> float:
    """The two-sided p of paired differences by the exact sign-flip test (Fisher 1935; Pitman 1937).

    If a trick does nothing, each difference could as well have come out with the other sign. p is
    the share of the 2^n assignments of signs whose |sum| is at least the one observed; it is a
    multiple of 2^(1 - n), so the test finds too little rather than too much where n is small.

    With more than `MAX_EXACT_DIFFERENCES` differences other than 0, p is (1 + b) / (1 +
    `RANDOM_SIGN_FLIPS`), where b of so
    many random assignments, always the same ones, reach the sum (Phipson and Smyth 2010). Raises
    ValueError if there is no difference, or one is not finite.
    """
    found = to_finite_array(differences)
    if not len(found):
        raise ValueError("no test without differences")
    sizes = np.sort(np.abs(found[found != 0]))  # whichever sign it has, a 0 changes no sum
    if not len(sizes):
        return 1.0
    total = abs(math.fsum(found / sizes[-1]))  # as shares of the largest, so that none overflows
    sizes = sizes / sizes[-1]
    reached = total - RELATIVE_TOLERANCE * float(sizes.sum())
    if reached <= 0:
        return 1.0
    if len(sizes) > MAX_EXACT_DIFFERENCES:
        return (1 + _count_extreme_sampled(sizes, reached)) / (1 + RANDOM_SIGN_FLIPS)
    # assignments come in pairs of opposite signs: those that reach +sum are half of all
    return 2.0 * _count_extreme(sizes, reached) / 2.0 ** len(sizes)


def _count_extreme(sizes: FloatArray, threshold: float) -> int:
    """How many assignments of signs sum up to `threshold` or more.

    Counted by meeting in the middle (Horowitz and Sahni 1974): each sum of one half with those of
    the other half that are large enough, 2^(n/2) look-ups instead of 2^n sums.
    """
    one, other = _signed_sums(sizes[::2]), np.sort(_signed_sums(sizes[1::2]))
    too_small = np.searchsorted(other, threshold - np.sort(one), side="left")
    return len(one) * len(other) - int(too_small.sum())


def _signed_sums(sizes: FloatArray) -> FloatArray:
    """The sums of all 2^n assignments of signs."""
    sums = np.zeros(1)
    for size in sizes:
        sums = np.concatenate([sums - size, sums + size])
    return sums


def _count_extreme_sampled(sizes: FloatArray, threshold: float) -> int:
    """How many of `RANDOM_SIGN_FLIPS` random assignments of signs have a |sum| of `threshold` or
    more.

    Eight signs are a random byte, which looks up their sum among all 256 that there are.
    """
    sums, found = np.zeros(RANDOM_SIGN_FLIPS), np.empty(RANDOM_SIGN_FLIPS)
    for drawn, start in zip(
        _sample_sign_bytes(-(-len(sizes) // 8)), range(0, len(sizes), 8), strict=True
    ):
        of_eight = _signed_sums(sizes[start : start + 8])
        which = drawn if len(of_eight) == 256 else drawn & (len(of_eight) - 1)
        sums += np.take(of_eight, which, out=found, mode="clip")  # which needs no clipping
    return int(np.count_nonzero(np.abs(sums) >= threshold))


@functools.lru_cache(maxsize=1)  # the tests of a report have as many pairs, most of them
def _sample_sign_bytes(number: int) -> list[npt.NDArray[np.uint8]]:
    """So many times `RANDOM_SIGN_FLIPS` random bytes, always the same."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, RANDOM_SIGN_FLIPS, dtype=np.uint8) for _ in range(number)]
