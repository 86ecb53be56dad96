"""What differences over seeds say: intervals, exact tests, corrections, effects, trade-offs.

Plain numbers in, plain numbers out. Of scipy only `scipy.special` is used, as `scipy.stats` takes a
second to import.
"""

from __future__ import annotations

import bisect
import functools
import itertools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
from scipy.special import nctdtr, stdtrit

FloatArray = npt.NDArray[np.float64]

MAX_EXACT_DIFFERENCES = 40
"""Differences other than 0 up to which every assignment of signs is counted."""

RANDOM_SIGN_FLIPS = 99_999
"""Random assignments of signs, where there are more differences than that."""

RELATIVE_TOLERANCE = 1e-9
"""Sums of differences count as equal if they are no further apart than this share of the sum of
their sizes: accuracies are fractions, and what is equal on paper differs in its last bits."""

MAX_SEEDS = 10_000

FactorialBlock = Mapping[frozenset[str], float]
"""The results of one seed in a factorial plan: by the tricks that were on."""


@dataclass(frozen=True)
class ConfidenceInterval:
    """A mean, and where the true one lies; in the unit of the values."""

    mean: float
    low: float
    high: float
    n: int
    sd: float
    """Standard deviation of a single value, with n - 1 in its denominator."""


def t_interval(values: Sequence[float], level: float = 0.95) -> ConfidenceInterval:
    """Student's t interval (Student 1908) of a mean: mean +- t * sd / sqrt(n), n - 1 degrees.

    It covers the true mean in a share `level` of all cases if the values are normal, even with few
    of them. Of a single value nothing but itself is known: low, high and sd are nan. Values that
    are all equal give that point. Raises ValueError if there is none, or one is not finite.
    """
    _check_fraction("level", level)
    found = _to_finite_array(values)
    n = len(found)
    if n == 0:
        raise ValueError("no interval without values")
    if n == 1:
        return ConfidenceInterval(float(found[0]), math.nan, math.nan, 1, math.nan)
    if np.all(found == found[0]):  # of which numpy's mean may differ in its last bit
        point = float(found[0])
        return ConfidenceInterval(point, point, point, n, 0.0)
    mean, sd = float(found.mean()), float(found.std(ddof=1))
    reach = float(stdtrit(n - 1, (1 + level) / 2)) * sd / math.sqrt(n)
    return ConfidenceInterval(mean, mean - reach, mean + reach, n, sd)


def t_interval_bounds(rows: FloatArray, level: float = 0.95) -> tuple[FloatArray, FloatArray]:
    """The ends of `interval` of every row, NaNs in it left out; NaN where fewer than two are left.

    Shape (rows, values) becomes two of (rows,).
    """
    there = np.isfinite(rows)
    n = there.sum(axis=1)
    enough = np.maximum(n, 2)
    mean = np.where(there, rows, 0).sum(axis=1) / enough
    apart = np.where(there, rows - mean[:, None], 0)
    sd = np.sqrt((apart**2).sum(axis=1) / (enough - 1))
    reach = stdtrit(enough - 1, (1 + level) / 2) * sd / np.sqrt(enough)
    known = np.where(n >= 2, 0.0, np.nan)
    return mean - reach + known, mean + reach + known


def sign_flip_test(differences: Sequence[float]) -> float:
    """The two-sided p of paired differences by the exact sign-flip test (Fisher 1935; Pitman 1937).

    If a trick does nothing, each difference could as well have come out with the other sign. p is
    the share of the 2^n assignments of signs whose |sum| is at least the one observed; it is a
    multiple of 2^(1 - n), so the test finds too little rather than too much where n is small.

    With more than `EXACT` differences other than 0, p is (1 + b) / (1 + `FLIPS`), where b of so
    many random assignments, always the same ones, reach the sum (Phipson and Smyth 2010). Raises
    ValueError if there is no difference, or one is not finite.
    """
    found = _to_finite_array(differences)
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
    """How many assignments of signs sum up to `reached` or more.

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
    """How many of `FLIPS` random assignments of signs have a |sum| of `reached` or more.

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
    """So many times `FLIPS` random bytes, always the same."""
    generator = np.random.default_rng(0)
    return [generator.integers(0, 256, RANDOM_SIGN_FLIPS, dtype=np.uint8) for _ in range(number)]


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
    """The fewest pairs with which `sign_flip`, after `holm` over so many tests, can reach `level`.

    Its smallest p, that of n differences of one sign, is 2^(1 - n): 6 pairs for one test at 5 %, 7
    for two or three, 8 for four to six. Raises ValueError for less than one test.
    """
    if tests < 1:
        raise ValueError(f"tests must be 1 or more, got {tests}")
    _check_fraction("level", level)
    return next(n for n in itertools.count(1) if tests * 2.0 ** (1 - n) <= level)


def can_reach_significance(
    p_values: Sequence[float], index: int, pairs: int, level: float = 0.05
) -> bool:
    """Whether the test at that place, of so many pairs, could have come to `level` after `holm`.

    That is, with all of its differences of one sign, beside what the other tests gave. Where these
    have more pairs and are shown themselves, fewer than `least_seeds` can do.
    """
    smallest = 2.0 ** (1 - pairs)
    return smallest <= level and (
        holm_correction([*p_values[:index], smallest, *p_values[index + 1 :]])[index] <= level
    )


def required_seeds(
    sd: float, difference: float, tests: int = 1, level: float = 0.05, power: float = 0.8
) -> int | None:
    """The pairs it takes in all to find a true difference of this size with this power.

    By the power of the two-sided paired t test (the noncentral t distribution, with
    sqrt(n) * difference / sd), at the largest p up to level / tests that `sign_flip` of n pairs can
    have; `sd` is that of the paired differences. Never fewer than `least_seeds`; None if it takes
    more than `MOST_SEEDS`. As an sd from few pairs is itself uncertain, so is the answer. Raises
    ValueError for an sd below 0 or a difference of 0.
    """
    if not 0 <= sd < math.inf:
        raise ValueError(f"sd must be a number from 0 on, got {sd}")
    if not 0 < abs(difference) < math.inf:
        raise ValueError(f"difference must be a number other than 0, got {difference}")
    _check_fraction("power", power)
    least = min_seeds_for_significance(tests, level)
    if sd == 0:
        return least

    def enough(n: int) -> bool:
        return _t_test_power(n, abs(difference) / sd, _max_attainable_p(n, level / tests)) >= power

    found = bisect.bisect_left(range(MAX_SEEDS + 1), True, lo=max(2, least), key=enough)
    return found if found <= MAX_SEEDS else None


def _max_attainable_p(n: int, level: float) -> float:
    """The largest p up to `level` that `sign_flip` of n pairs can have; no less with more pairs."""
    step = 2.0 ** -min(n - 1, MAX_EXACT_DIFFERENCES)
    return math.floor(level / step) * step


def _t_test_power(n: int, effect: float, level: float) -> float:
    """How often a two-sided t test of n values finds a mean of `effect` standard deviations."""
    edge = float(stdtrit(n - 1, 1 - level / 2))
    # scipy gives nan where a tail is below 1e-15
    missed, wrong_side = np.nan_to_num(nctdtr(n - 1, math.sqrt(n) * effect, [edge, -edge]))
    return float(1 - missed + wrong_side)


def compute_main_effects(
    blocks: Sequence[FactorialBlock], groups: Sequence[Sequence[str]]
) -> dict[str, list[float]]:
    """Of each trick in a factorial plan, seed by seed: the mean with it less the mean without it.

    `groups` are the tricks of which at most one can be on at a time. Yates (1937): each run with
    the trick counts, against the run that lacks nothing but it; so do those without any trick of
    its group, while those with another one of the group tell nothing. Raises ValueError for a block
    that isn't complete.
    """
    _check_blocks(blocks, groups)
    tricks = list(itertools.chain(*groups))
    return {
        trick: [
            _mean(value - block[on - {trick}] for on, value in block.items() if trick in on)
            for block in blocks
        ]
        for trick in tricks
    }


def compute_interactions(
    blocks: Sequence[FactorialBlock], groups: Sequence[Sequence[str]]
) -> dict[tuple[str, str], list[float]]:
    """Of each two tricks a and b in a factorial plan that can be on together, seed by seed: the
    effect of a with b on less its effect with b off, each averaged over the other tricks.

    0 if they add up; a and b may change places. (Some books halve it.) `groups` as of
    `main_effects`. Raises ValueError for a block that isn't complete.
    """
    _check_blocks(blocks, groups)
    pairs = [pair for two in itertools.combinations(groups, 2) for pair in itertools.product(*two)]
    return {
        (a, b): [
            _mean(
                (value - block[on - {a}]) - (block[on - {b}] - block[on - {a, b}])
                for on, value in block.items()
                if a in on and b in on
            )
            for block in blocks
        ]
        for a, b in pairs
    }


def _mean(values: Iterable[float]) -> float:
    found = list(values)
    return math.fsum(found) / len(found)


def _check_blocks(blocks: Sequence[FactorialBlock], groups: Sequence[Sequence[str]]) -> None:
    tricks = list(itertools.chain(*groups))
    if not tricks or len(set(tricks)) < len(tricks):
        raise ValueError(f"tricks must be one or more, each named once, got {tricks}")
    of_each = [[(), *((trick,) for trick in group)] for group in groups]
    wanted = {frozenset(itertools.chain(*on)) for on in itertools.product(*of_each)}
    for number, block in enumerate(blocks):
        if wrong := wanted ^ set(block):
            first = min(map(sorted, wrong), key=lambda names: (len(names), names))
            what = "lacks" if frozenset(first) in wanted else "has, beside the tricks,"
            raise ValueError(f"block {number} {what} {' + '.join(first) or 'no trick at all'}")
        _to_finite_array(list(block.values()))


def pareto_mask(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Of each (cost, value): whether no other is as cheap and as good, and better in one of them.

    Equal points are on the front together. Raises ValueError for a nan.
    """
    if any(math.isnan(number) for point in points for number in point):
        raise ValueError("a cost and a value must be numbers, got nan")
    front = [False] * len(points)
    best: tuple[float, float] | None = None
    # the cheapest first, of equally cheap ones the best first
    for index in sorted(range(len(points)), key=lambda i: (points[i][0], -points[i][1])):
        if best is None or points[index][1] > best[1]:
            best = points[index]
        front[index] = points[index] == best
    return front


def _to_finite_array(values: Sequence[float]) -> FloatArray:
    found = np.asarray(values, dtype=np.float64)
    if not np.isfinite(found).all():
        raise ValueError(f"values must be finite, got {found[~np.isfinite(found)][0]}")
    return found


def _check_fraction(name: str, value: float) -> None:
    if not 0 < value < 1:
        raise ValueError(f"{name} must be between 0 and 1, got {value}")
