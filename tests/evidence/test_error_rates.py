"""Error rates, coverage and power in simulated comparisons whose true effects are known."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import pytest

from recipe.evidence.intervals import t_interval
from recipe.evidence.multiple_testing import holm_correction
from recipe.evidence.paired_test import sign_flip_test
from recipe.evidence.power import required_seeds

pytestmark = pytest.mark.integration

SEEDS = 8

T_TEST_POWER = 0.847  # 8 pairs, effect 1 / 0.8, level 6 / 128: by the noncentral t distribution

Results = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def normal(generator: np.random.Generator, *shape: int) -> Results:
    """val/accuracy in points: an effect of the seed on all variants, and noise on each."""
    seed = generator.normal(90, 2, (*shape[:-1], 1))
    return np.asarray(seed + generator.normal(0, 0.6, shape))


def counted(generator: np.random.Generator, *shape: int) -> Results:
    """Correct predictions out of 359 as percent: few values, many ties, and skewed."""
    seed = generator.beta(97, 3, (*shape[:-1], 1))
    return np.asarray(100 * generator.binomial(359, np.broadcast_to(seed, shape)) / 359)


@pytest.mark.parametrize("results", [normal, counted])
def test_false_positive_rate_of_comparisons_is_at_most_six_percent(
    results: Callable[..., Results],
) -> None:
    """With 8 seeds p is a multiple of 1/128, so that the error rate is at most 6/128, 4.7 %, and
    lower where differences tie."""
    found = results(np.random.default_rng(5), 10_000, SEEDS, 2)
    shown = [sign_flip_test(pairs) <= 0.05 for pairs in (found[..., 1] - found[..., 0]).tolist()]
    assert sum(shown[:1000]) <= 60
    assert 0.03 <= np.mean(shown) <= 6 / 128 + 0.006


def test_false_positive_rate_of_families_of_four_is_at_most_six_percent() -> None:
    """The four share their baseline. After Holm the smallest p with 8 seeds is 4/128, the next
    8/128, so that at most 3.1 % of families have a false positive."""
    found = normal(np.random.default_rng(6), 4000, SEEDS, 5)
    families = (found[..., 1:] - found[..., :1]).transpose(0, 2, 1).tolist()
    shown = [
        min(holm_correction([sign_flip_test(trick) for trick in family])) <= 0.05
        for family in families
    ]
    assert sum(shown[:1000]) <= 60
    assert 0.01 <= np.mean(shown) <= 4 / 128 + 0.006


@pytest.mark.parametrize("n", [5, 8, 12])
def test_coverage_of_95_percent_intervals_is_94_to_96_percent(n: int) -> None:
    found = normal(np.random.default_rng(n), 20_000, n, 2)
    truth = 1.0
    intervals = map(t_interval, (found[..., 1] + truth - found[..., 0]).tolist())
    covered = np.mean([each.low <= truth <= each.high for each in intervals])
    assert 0.94 <= covered <= 0.96  # the standard error is 0.15 %


def test_one_point_effect_is_detected_with_theoretical_power() -> None:
    """One point, where differences have an sd of 0.8: with 8 seeds the exact test has a level of
    6/128, 4.7 %, at which the power of the t test is 84.7 %. The exact test assumes less, and has
    83.6 %."""
    differences = np.random.default_rng(7).normal(1.0, 0.8, (20_000, SEEDS)).tolist()
    found = np.mean([sign_flip_test(pairs) <= 0.05 for pairs in differences])
    assert found >= T_TEST_POWER - 0.02


@pytest.mark.parametrize(
    ("sd", "difference", "tests", "n"),
    [(0.8, 1.0, 1, 8), (0.8, 1.0, 4, 11), (0.6, 0.5, 2, 17), (1.0, 1.0, 3, 14), (0.5, 1.0, 4, 8)],
)
def test_required_seeds_detect_a_difference_with_the_requested_power(
    sd: float, difference: float, tests: int, n: int
) -> None:
    assert required_seeds(sd, difference, tests) == n
    differences = np.random.default_rng(8).normal(difference, sd, (4000, n)).tolist()
    others = [1.0] * (tests - 1)  # the other tricks have no effect
    shown = [holm_correction([sign_flip_test(pairs), *others])[0] <= 0.05 for pairs in differences]
    assert np.mean(shown) >= 0.79
