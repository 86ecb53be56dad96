"""The statistics of a comparison: against scipy, worked examples, brute force, and simulations."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from recipe.evidence.factorial import compute_interactions, compute_main_effects
from recipe.evidence.intervals import t_interval
from recipe.evidence.multiple_testing import (
    can_reach_significance,
    holm_correction,
    min_seeds_for_significance,
)
from recipe.evidence.paired_test import RANDOM_SIGN_FLIPS, sign_flip_test
from recipe.evidence.power import required_seeds

WHOLE = st.lists(st.integers(-5, 5), min_size=1, max_size=10)
"""Differences with many ties."""

P = st.floats(0, 1, allow_subnormal=False)


# intervals


def test_an_interval_is_students() -> None:
    # 1..5: mean 3, sd sqrt(10 / 4), t(4 degrees, 97.5 %) = 2.776445; Student's half-width 1.9632
    found = t_interval([1, 2, 3, 4, 5])
    assert (found.mean, found.n) == (3.0, 5)
    assert found.sd == pytest.approx(math.sqrt(2.5))
    assert (found.low, found.high) == pytest.approx((3 - 1.963243, 3 + 1.963243), abs=1e-6)


@given(
    st.lists(st.floats(-1e6, 1e6, allow_subnormal=False), min_size=2, max_size=20),
    st.sampled_from([0.5, 0.9, 0.95, 0.99]),
)
def test_an_interval_is_that_of_scipy(values: list[float], level: float) -> None:
    found = t_interval(values, level)
    if len(set(values)) == 1:
        assert (found.low, found.high) == (values[0], values[0])
        return
    theirs = stats.ttest_1samp(values, 0).confidence_interval(level)
    scale = max(map(abs, values))
    assert (found.low, found.high) == pytest.approx(
        (theirs.low, theirs.high), rel=1e-9, abs=1e-9 * scale
    )


def test_equal_values_are_a_point_and_a_single_one_has_no_interval() -> None:
    same = t_interval([0.1] * 7)
    assert (same.mean, same.low, same.high, same.sd, same.n) == (0.1, 0.1, 0.1, 0.0, 7)
    one = t_interval([0.1])
    assert (one.mean, one.n) == (0.1, 1)
    assert all(map(math.isnan, (one.low, one.high, one.sd)))


# the sign-flip test


def by_hand(differences: Sequence[int]) -> Fraction:
    """All 2^n assignments of signs, one after the other, in whole numbers."""
    sums = [
        sum(sign * d for sign, d in zip(signs, differences, strict=True))
        for signs in itertools.product((1, -1), repeat=len(differences))
    ]
    return Fraction(sum(abs(s) >= abs(sum(differences)) for s in sums), len(sums))


def test_the_sign_flip_test_on_darwins_maize() -> None:
    """Fisher (The Design of Experiments, 1935, section 21): of the 32,768 assignments of the 15
    differences in eighths of an inch 863 sums reach 314 or more, as many -314 or less: 5.267 %."""
    maize = [49, -67, 8, 16, 6, 23, 28, 41, 14, 29, 56, 24, 75, 60, -48]
    assert sum(maize) == 314
    assert sign_flip_test(maize) == 2 * 863 / 32768


def test_of_differences_of_one_sign_two_assignments_are_as_extreme() -> None:
    for n in (1, 2, 5, 6, 8, 20, 40):
        assert sign_flip_test([0.1 * (k + 1) for k in range(n)]) == 2 / 2**n


@given(WHOLE)
def test_the_sign_flip_test_counts_every_assignment(differences: list[int]) -> None:
    # 359ths, as accuracies come: sums that are equal on paper differ in their last bits
    for scale in (1.0, 1 / 359, 1e-3, 1e300, 1e-300):
        assert sign_flip_test([d * scale for d in differences]) == by_hand(differences)


@given(WHOLE.flatmap(lambda d: st.tuples(st.just(d), st.permutations(d))))
def test_the_sign_flip_test_asks_neither_for_order_nor_for_direction(
    pair: tuple[list[int], list[int]],
) -> None:
    differences, shuffled = pair
    assert sign_flip_test(shuffled) == sign_flip_test(differences)
    assert sign_flip_test([-d / 359 for d in shuffled]) == sign_flip_test(differences)


def test_the_sign_flip_test_is_that_of_scipy() -> None:
    generator = np.random.default_rng(1)
    for n in (4, 9, 12):
        differences = generator.normal(0.5, 1, n)
        theirs = stats.permutation_test(
            (differences,), np.mean, permutation_type="samples", n_resamples=np.inf
        )
        assert sign_flip_test(list(differences)) == pytest.approx(theirs.pvalue, rel=1e-12)


def test_differences_that_are_all_0_show_nothing() -> None:
    assert sign_flip_test([0.0, -0.0, 0.0]) == 1.0
    assert sign_flip_test([0.0] * 100) == 1.0


def test_a_0_counts_for_neither_side_and_changes_nothing() -> None:
    few = [1.0, 2.0, -0.5, 3.0]
    assert sign_flip_test([0.0, *few, 0.0]) == sign_flip_test(few)
    assert sign_flip_test([0.0] * 60 + few) == sign_flip_test(few)


def test_forty_differences_are_counted_exactly() -> None:
    # of 40 ones, 5 with a minus: |sum| is 30 or more if at most 5 signs, or at least 35, are minus
    extreme = 2 * sum(math.comb(40, k) for k in range(6))
    assert sign_flip_test([1.0] * 35 + [-1.0] * 5) == extreme / 2**40
    unlike = [k * (-1 if k % 3 == 0 else 1) for k in range(1, 41)]
    ways = {0: 1}  # how many assignments give each sum
    for size in map(abs, unlike):
        sums = {total for old in ways for total in (old - size, old + size)}
        ways = {total: ways.get(total - size, 0) + ways.get(total + size, 0) for total in sums}
    extreme = sum(count for total, count in ways.items() if abs(total) >= sum(unlike))
    assert 0.01 < sign_flip_test(unlike) == extreme / 2**40 < 0.1


def test_more_than_forty_are_sampled_always_alike_and_never_0() -> None:
    ones = [1.0] * 35 + [-1.0] * 20
    exact = stats.binomtest(35, 55).pvalue
    assert sign_flip_test(ones) == pytest.approx(exact, rel=0.05)
    assert sign_flip_test(ones) == sign_flip_test(ones[::-1])
    assert sign_flip_test([1.0] * 200) == 1 / (RANDOM_SIGN_FLIPS + 1)


@pytest.mark.parametrize("wrong", [[], [1.0, math.nan], [math.inf]])
def test_what_is_no_number_is_refused(wrong: list[float]) -> None:
    for function in (t_interval, sign_flip_test):
        with pytest.raises(ValueError, match=r"without|finite"):
            function(wrong)


# Holm's correction, and how many seeds it takes


def test_holm_by_hand() -> None:
    # in order 0.01 * 4, 0.02 * 3, 0.03 * 2 (not below 0.06), 0.4 * 1
    assert holm_correction([0.03, 0.4, 0.01, 0.02]) == pytest.approx([0.06, 0.4, 0.04, 0.06])
    assert holm_correction([0.7, 0.6]) == [1.0, 1.0]
    assert holm_correction([0.2]) == [0.2]
    assert holm_correction([]) == []
    with pytest.raises(ValueError, match="within"):
        holm_correction([0.1, math.nan])


@given(st.lists(P, min_size=1, max_size=8))
def test_holm_keeps_the_order_and_is_no_more_than_bonferroni(p_values: list[float]) -> None:
    found = holm_correction(p_values)
    for p, adjusted in zip(p_values, found, strict=True):
        assert p <= adjusted <= min(1.0, len(p_values) * p)
    assert min(found) == min(1.0, len(p_values) * min(p_values))
    pairs = sorted(zip(p_values, found, strict=True))
    assert [adjusted for _, adjusted in pairs] == sorted(found)


@given(st.lists(P, min_size=1, max_size=6), st.floats(0.01, 0.5))
def test_holm_rejects_what_its_step_down_procedure_rejects(
    p_values: list[float], level: float
) -> None:
    rejected = set()
    for step, index in enumerate(sorted(range(len(p_values)), key=p_values.__getitem__)):
        if (len(p_values) - step) * p_values[index] > level:
            break
        rejected.add(index)
    assert {
        i for i, adjusted in enumerate(holm_correction(p_values)) if adjusted <= level
    } == rejected


def test_the_fewest_seeds_are_those_with_which_the_test_can_just_reach_the_level() -> None:
    assert [min_seeds_for_significance(tests) for tests in range(1, 7)] == [6, 7, 7, 8, 8, 8]
    for tests in range(1, 30):
        fewest = min_seeds_for_significance(tests)
        smallest = [holm_correction([sign_flip_test([1.0] * n)] + [1.0] * (tests - 1))[0]
                    for n in (fewest - 1, fewest)]  # fmt: skip
        assert smallest[0] > 0.05 >= smallest[1]
    assert min_seeds_for_significance(1, level=0.01) == 8
    with pytest.raises(ValueError, match="tests"):
        min_seeds_for_significance(0)


def test_fewer_seeds_can_do_beside_tricks_that_are_shown_with_more() -> None:
    # 6 pairs give 2 / 2**6 = 0.03125 at best: times 1 beside a trick that is shown, else times 2
    assert can_reach_significance([2 / 2**10, 1.0], 1, pairs=6)
    assert not can_reach_significance([0.5, 1.0], 1, pairs=6)
    # 0.03 is below it, but not shown itself, as it is times 2
    assert not can_reach_significance([0.03, 1.0], 1, pairs=6)
    assert not can_reach_significance([0.0, 1.0], 1, pairs=5)
    for tests in range(1, 30):
        fewest, p_values = min_seeds_for_significance(tests), [0.5] * tests
        reached = [can_reach_significance(p_values, 0, n) for n in (fewest - 1, fewest)]
        assert reached == [False, True]


def power_by_scipy(n: int, effect: float, level: float) -> float:
    edge, shift = stats.t.isf(level / 2, n - 1), math.sqrt(n) * effect
    return float(stats.nct.sf(edge, n - 1, shift) + stats.nct.cdf(-edge, n - 1, shift))


def test_seeds_to_see_are_the_fewest_with_the_power() -> None:
    # the textbook's 34 pairs for half a standard deviation (Cohen 1988, G*Power)
    assert required_seeds(1.0, 0.5) == 34
    for effect in (0.1, 0.3, 0.6, 1.0):
        for tests in (1, 4):
            found = required_seeds(2.0, -2.0 * effect, tests)
            assert found is not None
            # the largest p of the exact test that is no larger than the level
            levels = {
                n: int(Fraction(0.05 / tests) * 2 ** (n - 1)) / 2 ** (n - 1)
                for n in (found - 1, found)
            }
            assert power_by_scipy(found, effect, levels[found]) >= 0.8
            assert found == min_seeds_for_significance(tests) or (
                power_by_scipy(found - 1, effect, levels[found - 1]) < 0.8
            )
    assert required_seeds(0.8, 1.0, power=0.95) == 11


def test_seeds_to_see_are_never_fewer_than_give_a_verdict_and_never_a_fantasy() -> None:
    assert [required_seeds(sd, 1.0, tests=4) for sd in (0.0, 1e-300, 1e-9, 1e-3, 0.1)] == [8] * 5
    assert required_seeds(1.0, 0.01) is None
    assert required_seeds(1.0, 0.0281) == 9943
    for sd, difference in [(-1.0, 1.0), (math.nan, 1.0), (1.0, 0.0), (1.0, math.nan)]:
        with pytest.raises(ValueError, match="must be a number"):
            required_seeds(sd, difference)


# factorial plans


def block(values: dict[str, float]) -> dict[frozenset[str], float]:
    return {frozenset(on): value for on, value in values.items()}


def test_effects_and_interactions_by_hand() -> None:
    first = block({"": 70, "a": 74, "b": 71, "ab": 69})
    second = block({"": 60, "a": 63, "b": 62, "ab": 67})
    # a: (74 + 69) / 2 - (70 + 71) / 2 = 1; with b on -2, off 4
    assert compute_main_effects([first, second], [["a"], ["b"]]) == {
        "a": [1.0, 4.0],
        "b": [-2.0, 3.0],
    }
    assert compute_interactions([first, second], [["a"], ["b"]]) == {("a", "b"): [-6.0, 2.0]}


def test_effects_are_those_that_the_results_were_made_of() -> None:
    tricks, effects = ["a", "b", "c"], {"a": 3.0, "b": -1.0, "c": 0.0}
    planted = {("a", "b"): 2.0, ("a", "c"): 0.0, ("b", "c"): -4.0}
    made = {
        frozenset(on): 50.0
        + sum(effects[t] * (0.5 if t in on else -0.5) for t in tricks)
        + sum(k * (0.25 if (a in on) == (b in on) else -0.25) for (a, b), k in planted.items())
        for size in range(4)
        for on in itertools.combinations(tricks, size)
    }
    groups = [[trick] for trick in tricks]
    assert {t: values[0] for t, values in compute_main_effects([made], groups).items()} == effects
    assert {t: values[0] for t, values in compute_interactions([made], groups).items()} == planted


def test_a_single_trick_is_its_paired_difference() -> None:
    found = compute_main_effects([block({"": 0.5, "a": 0.75})], [["a"]])
    assert found == {"a": [0.25]}
    assert compute_interactions([block({"": 0.5, "a": 0.75})], [["a"]]) == {}


def test_options_of_one_group_are_each_compared_with_none_of_it() -> None:
    found = block({"": 70, "a": 74, "b": 71, "c": 73, "ac": 80, "bc": 72})
    # a: (4 + 7) / 2; b: (1 - 1) / 2; c: (3 + 6 + 1) / 3; a is 3 larger with c on, b 2 smaller
    groups = [["a", "b"], ["c"]]
    assert compute_main_effects([found], groups) == {
        "a": [5.5],
        "b": [0.0],
        "c": [pytest.approx(10 / 3)],
    }
    assert compute_interactions([found], groups) == {("a", "c"): [3.0], ("b", "c"): [-2.0]}


@pytest.mark.parametrize(
    ("values", "said"),
    [
        ({"": 1.0, "a": 2.0, "b": 3.0}, "block 1 lacks a + b"),
        ({"a": 2.0, "b": 3.0, "ab": 1.0}, "block 1 lacks no trick at all"),
        ({"": 1.0, "a": 2.0, "b": 3.0, "ab": 1.0, "c": 0.0}, "block 1 has, beside the tricks, c"),
    ],
)
def test_an_incomplete_block_is_refused(values: dict[str, float], said: str) -> None:
    blocks = [block({"": 1, "a": 2, "b": 3, "ab": 4}), block(values)]
    for function in (compute_main_effects, compute_interactions):
        with pytest.raises(ValueError, match=said.replace("+", r"\+")):
            function(blocks, [["a"], ["b"]])


# how often it is right: simulated comparisons, in which the truth is known

SEEDS = 8

Results = np.ndarray[tuple[int, ...], np.dtype[np.float64]]


def normal(generator: np.random.Generator, *shape: int) -> Results:
    """val/accuracy in points: what the seed does to all variants, and what luck does to each."""
    seed = generator.normal(90, 2, (*shape[:-1], 1))
    return np.asarray(seed + generator.normal(0, 0.6, shape))


def counted(generator: np.random.Generator, *shape: int) -> Results:
    """As right answers of 359 come: few values, many ties, and skewed near the top."""
    seed = generator.beta(97, 3, (*shape[:-1], 1))
    return np.asarray(100 * generator.binomial(359, np.broadcast_to(seed, shape)) / 359)


@pytest.mark.parametrize("results", [normal, counted])
def test_of_a_thousand_comparisons_of_a_with_a_at_most_six_percent_are_called_shown(
    results: Callable[..., Results],
) -> None:
    """With 8 seeds p is a multiple of 1/128, so the test can't use 5 % up: it stops at 6/128,
    4.7 %; where differences tie, earlier."""
    found = results(np.random.default_rng(5), 10_000, SEEDS, 2)
    shown = [sign_flip_test(pairs) <= 0.05 for pairs in (found[..., 1] - found[..., 0]).tolist()]
    assert sum(shown[:1000]) <= 60
    assert 0.03 <= np.mean(shown) <= 6 / 128 + 0.006


def test_of_a_thousand_families_of_four_tricks_at_most_six_percent_have_one_called_shown() -> None:
    """The four share their baseline. After Holm the smallest p with 8 seeds is 4/128, the next
    8/128: 3.1 % of families at the most, so a verdict is right more often than 95 %."""
    found = normal(np.random.default_rng(6), 4000, SEEDS, 5)
    families = (found[..., 1:] - found[..., :1]).transpose(0, 2, 1).tolist()
    shown = [
        min(holm_correction([sign_flip_test(trick) for trick in family])) <= 0.05
        for family in families
    ]
    assert sum(shown[:1000]) <= 60
    assert 0.01 <= np.mean(shown) <= 4 / 128 + 0.006


@pytest.mark.parametrize("n", [5, 8, 12])
def test_the_intervals_cover_the_truth_in_94_to_96_percent(n: int) -> None:
    found = normal(np.random.default_rng(n), 20_000, n, 2)
    truth = 1.0
    intervals = map(t_interval, (found[..., 1] + truth - found[..., 0]).tolist())
    covered = np.mean([each.low <= truth <= each.high for each in intervals])
    assert 0.94 <= covered <= 0.96  # 20,000 of them are within 0.5 % of it all but never


def test_a_planted_point_is_found_as_often_as_theory_says() -> None:
    """One point, where differences have an sd of 0.8 (three right answers of 359): with 8 seeds the
    exact test works at 6/128, 4.7 %, at which theory has the t test find it in 84.7 %. The exact
    test assumes less than that one, which costs it a percent: it finds 83.6 %."""
    differences = np.random.default_rng(7).normal(1.0, 0.8, (20_000, SEEDS)).tolist()
    found = np.mean([sign_flip_test(pairs) <= 0.05 for pairs in differences])
    assert found >= power_by_scipy(SEEDS, 1 / 0.8, 6 / 128) - 0.02 >= 0.8


@pytest.mark.parametrize(
    ("sd", "difference", "tests", "n"),
    [(0.8, 1.0, 1, 8), (0.8, 1.0, 4, 11), (0.6, 0.5, 2, 17), (1.0, 1.0, 3, 14), (0.5, 1.0, 4, 8)],
)
def test_with_the_seeds_advised_a_difference_is_found_with_the_power_asked_for(
    sd: float, difference: float, tests: int, n: int
) -> None:
    assert required_seeds(sd, difference, tests) == n
    differences = np.random.default_rng(8).normal(difference, sd, (4000, n)).tolist()
    others = [1.0] * (tests - 1)  # the tricks beside it do nothing
    shown = [holm_correction([sign_flip_test(pairs), *others])[0] <= 0.05 for pairs in differences]
    assert np.mean(shown) >= 0.79
