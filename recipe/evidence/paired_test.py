"""The exact test of paired differences."""

from __future__ import annotations

import functools
import math
from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from recipe.evidence.intervals import FloatArray, to_finite_array

MAX_EXACT_DIFFERENCES = 40  # non-zero ones

RANDOM_SIGN_FLIPS = 99_999

# as a fraction of the sum of magnitudes: sums of accuracies, which are fractions, that are equal
# exactly differ in their last bits
TIE_TOLERANCE = 1e-9


def sign_flip_test(differences: Sequence[float]) -> float:
    """The two-sided p-value of paired differences by the exact sign-flip test.

    Under the null hypothesis each difference has either sign with equal probability. The p-value
    is the fraction of the 2^n assignments of signs whose |sum| is at least the observed one. It is
    a multiple of 2^(1 - n), so that the test is conservative for small n.

    With more than `MAX_EXACT_DIFFERENCES` non-zero differences it is (1 + b) / (1 +
    `RANDOM_SIGN_FLIPS`), where b of that many random assignments, drawn from a fixed seed, reach
    the sum. Raises ValueError for no differences, or one that is not finite. Sources: Fisher 1935;
    Pitman 1937; Phipson and Smyth 2010.
    """
    found = to_finite_array(differences)
    if not len(found):
        raise ValueError("a test needs at least one difference")
    sizes = np.sort(np.abs(found[found != 0]))  # zeros don't change the sums
    if not len(sizes):
        return 1.0
    total = abs(math.fsum(found / sizes[-1]))  # scaled by the largest to avoid overflow
    sizes = sizes / sizes[-1]
    threshold = total - TIE_TOLERANCE * float(sizes.sum())
    if threshold <= 0:
        return 1.0
    if len(sizes) > MAX_EXACT_DIFFERENCES:
        return (1 + _count_extreme_sampled(sizes, threshold)) / (1 + RANDOM_SIGN_FLIPS)
    # by symmetry, as many assignments reach -threshold
    return 2.0 * _count_extreme(sizes, threshold) / 2.0 ** len(sizes)


def _count_extreme(sizes: FloatArray, threshold: float) -> int:
    """The number of sign assignments with a sum of at least `threshold`.

    Meet in the middle (Horowitz and Sahni 1974): 2^(n/2) look-ups instead of 2^n sums.
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
    """The number of random sign assignments with a |sum| of at least `threshold`.

    Each random byte holds eight signs, and indexes a table of their 256 possible sums.
    """
    sums, found = np.zeros(RANDOM_SIGN_FLIPS), np.empty(RANDOM_SIGN_FLIPS)
    starts = range(0, len(sizes), 8)
    for signs, start in zip(_sample_sign_bytes(len(starts)), starts, strict=True):
        table = _signed_sums(sizes[start : start + 8])
        index = signs if len(table) == 256 else signs & (len(table) - 1)
        sums += np.take(table, index, out=found, mode="clip")  # no buffering with this mode
    return int(np.count_nonzero(np.abs(sums) >= threshold))


@functools.lru_cache(maxsize=1)  # most tests of a report have the same number of pairs
def _sample_sign_bytes(number: int) -> list[npt.NDArray[np.uint8]]:
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, RANDOM_SIGN_FLIPS, dtype=np.uint8) for _ in range(number)]
