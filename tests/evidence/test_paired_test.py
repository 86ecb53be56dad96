"""The exact sign-flip test: against scipy, Fisher's example and brute force."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recipe.evidence.paired_test import RANDOM_SIGN_FLIPS, sign_flip_test

WHOLE = st.lists(st.integers(-5, 5), min_size=1, max_size=10)  # differences with many ties


def enumerate_all(differences: Sequence[int]) -> Fraction:
    """Enumerates all 2^n sign assignments, in integers."""
    sums = [
        sum(sign * d for sign, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return Fraction(sum(abs(s) >= abs(sum(differences)) for s in sums), len(sums))


def test_sign_flip_test_reproduces_fishers_result_on_darwins_maize() -> None:
    """Fisher (The Design of Experiments, 1935, section 21): of the 32,768 sign assignments of the
    15 differences, in eighths of an inch, 863 sums are at least 314, 863 at most -314: 5.267 %."""
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sum(maize) == 314
    assert sign_flip_test(maize) == 2 * 863 / 32768


def test_sign_flip_p_value_of_same_sign_differences_is_two_over_2_to_n() -> None:
    for n in (1, 2, 5, 6, 8, 20, 40):
        assert sign_flip_test([0.1 * (k + 1) for k in range(n)]) == 2 / 2**n


@given(WHOLE)
def test_sign_flip_test_counts_every_assignment(differences: list[int]) -> None:
    # 359ths, as accuracies are: sums that are equal exactly differ in their last bits
    for scale in (1.0, 1 / 359, 1e-3, 1e300, 1e-300):
        assert sign_flip_test([d * scale for d in differences]) == enumerate_all(differences)


@given(WHOLE.flatmap(lambda d: st.tuples(st.just(d), st.permutations(d))))
def test_sign_flip_test_is_invariant_to_order_and_direction(
    pair: tuple[list[int], list[int]],
) -> None:
    differences, shuffled = pair
    assert sign_flip_test(shuffled) == sign_flip_test(differences)
    assert sign_flip_test([-d / 359 for d in shuffled]) == sign_flip_test(differences)


def test_sign_flip_test_matches_scipy_permutation_test() -> None:
    generator = np.random.default_rng(1)
    for n in (4, 9, 12):
        differences = generator.normal(0.5, 1, n)
        theirs = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert sign_flip_test(list(differences)) == pytest.approx(theirs.pvalue, rel=1e-12)


def test_sign_flip_p_value_of_zero_differences_is_1() -> None:
    assert sign_flip_test([0.0, -0.0, 0.0]) == 1.0
    assert sign_flip_test([0.0] * 100) == 1.0


def test_zero_differences_do_not_change_p_value() -> None:
    few = [1.0, 2.0, -0.5, 3.0]
    assert sign_flip_test([0.0, *few, 0.0]) == sign_flip_test(few)
    assert sign_flip_test([0.0] * 60 + few) == sign_flip_test(few)


def test_sign_flip_test_is_exact_for_forty_differences() -> None:
    # 40 ones, 5 of them negative: |sum| >= 30 if at most 5 or at least 35 signs are negative
    extreme = 2 * sum(math.comb(40, k) for k in range(6))
    assert sign_flip_test([1.0] * 35 + [-1.0] * 5) == extreme / 2**40
    unlike = [k * (-1 if k % 3 == 0 else 1) for k in range(1, 41)]
    ways = {0: 1}  # the number of assignments by their sum
    for size in map(abs, unlike):
        sums = {total for old in ways for total in (old - size, old + size)}
        ways = {total: ways.get(total - size, 0) + ways.get(total + size, 0) for total in sums}
    extreme = sum(count for total, count in ways.items() if abs(total) >= sum(unlike))
    assert 0.01 < sign_flip_test(unlike) == extreme / 2**40 < 0.1


def test_sign_flip_sampling_is_reproducible_and_never_gives_zero() -> None:
    ones = [1.0] * 35 + [-1.0] * 20
    exact = stats.binomtest(35, 55).pvalue
    assert sign_flip_test(ones) == pytest.approx(exact, rel=0.05)
    assert sign_flip_test(ones) == sign_flip_test(ones[::-1])
    assert sign_flip_test([1.0] * 200) == 1 / (RANDOM_SIGN_FLIPS + 1)


@pytest.mark.parametrize("wrong", [[], [1.0, math.nan], [math.inf]])
def test_sign_flip_test_raises_for_empty_or_nonfinite_differences(wrong: list[float]) -> None:
    with pytest.raises(ValueError, match=r"at least one|finite"):
        sign_flip_test(wrong)
