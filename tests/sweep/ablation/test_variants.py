from itertools import combinations

from hypothesis import given
from hypothesis import strategies as st

from recipe.config.groups import OFF_OPTIONS
from recipe.sweep.ablation import variants
from recipe.sweep.ablation.arguments import TRICK_GROUPS
from recipe.sweep.ablation.variants import PLANS, Trick, Variant

CLIP, STEP, FREEZE = (
    Trick(group, option, (f"{group}={option}",), (f"{group}={OFF_OPTIONS[group]}",))
    for group, option in (("clip", "norm"), ("scheduler", "step"), ("freeze", "vgg_first2"))
)

ALL = [FREEZE, STEP, CLIP]


def trick(group: str, option: str) -> Trick:
    return Trick(group, option, (f"{group}={option}",), (f"{group}={OFF_OPTIONS[group]}",))


one_each = st.lists(st.sampled_from(TRICK_GROUPS), min_size=1, max_size=6, unique=True).map(
    lambda groups: [trick(group, "on") for group in TRICK_GROUPS if group in groups]
)
several = st.dictionaries(
    st.sampled_from(TRICK_GROUPS), st.integers(1, 3), min_size=1, max_size=3
).map(
    lambda counts: [
        trick(group, f"o{i}") for group in TRICK_GROUPS for i in range(counts.get(group, 0))
    ]
)
seeds = st.lists(st.integers(0, 99), min_size=1, max_size=4, unique=True).map(
    lambda values: [f"seed={value}" for value in values]
)


def test_plans_for_three_tricks_match_expected_variants() -> None:
    alone: list[Variant] = [(FREEZE,), (STEP,), (CLIP,)]
    less = [(STEP, CLIP), (FREEZE, CLIP), (FREEZE, STEP)]
    full = (FREEZE, STEP, CLIP)
    assert PLANS["add_one"](ALL) == [(), *alone]
    assert PLANS["leave_one_out"](ALL) == [full, *less]
    assert PLANS["both"](ALL) == [(), *alone, full, *less]
    assert PLANS["factorial"](ALL) == [(), *alone, *reversed(less), full]


def test_variants_of_two_plans_are_run_once() -> None:
    # without the one it is the other alone
    assert PLANS["both"]([STEP, CLIP]) == [(), (STEP,), (CLIP,), (STEP, CLIP)]


def test_single_trick_reduces_every_plan_to_pair() -> None:
    for plan, made in PLANS.items():
        assert sorted(made([CLIP]), key=len) == [(), (CLIP,)], plan


def test_a_variant_has_at_most_one_option_of_a_group() -> None:
    agc = trick("clip", "agc")
    assert PLANS["add_one"]([STEP, CLIP, agc]) == [(), (STEP,), (CLIP,), (agc,)]
    assert sorted(map(variants.format_variant, PLANS["factorial"]([STEP, CLIP, agc]))) == [
        "baseline", "clip=agc", "clip=norm",
        "scheduler=step", "scheduler=step clip=agc", "scheduler=step clip=norm",
    ]  # fmt: skip


@given(one_each)
def test_plans_have_distinct_variants_and_a_pair_for_every_trick(tricks: list[Trick]) -> None:
    full = tuple(tricks)
    for plan, made in PLANS.items():
        found = made(tricks)
        assert len(found) == len(set(found)) == variants.count_variants(plan, tricks)
        assert (full if plan == "leave_one_out" else ()) in found
        for each in tricks:  # some pair of variants differs in it alone
            pairs = combinations(map(set, found), 2)
            assert any(one ^ other == {each} for one, other in pairs), (plan, each)


@given(several)
def test_factorial_plan_has_every_set_with_one_option_per_group(tricks: list[Trick]) -> None:
    every = [
        chosen
        for number in range(len(tricks) + 1)
        for chosen in combinations(tricks, number)
        if len({each.group for each in chosen}) == number
    ]
    found = PLANS["factorial"](tricks)
    assert set(found) == set(every) and len(found) == len(every)
    assert len(found) == variants.count_variants("factorial", tricks)


@given(several, seeds)
def test_all_variants_of_one_seed_precede_next_seed(tricks: list[Trick], given: list[str]) -> None:
    made = PLANS["factorial"](tricks)
    pairs = variants.make_jobs_by_seed(made, tricks, given)
    names = [variants.format_variant(variant) for variant in made]
    blocks = [pairs[i : i + len(made)] for i in range(0, len(pairs), len(made))]
    assert [[name for name, _ in block] for block in blocks] == [names] * len(given)
    assert [{swept[-1] for _, swept in block} for block in blocks] == [{s} for s in given]


@given(several)
def test_every_variant_sets_every_group(tricks: list[Trick]) -> None:
    groups = {each.group for each in tricks}
    for variant in PLANS["factorial"](tricks):
        on = {each.group: each.overrides for each in variant}
        texts = variants.make_overrides(variant, tricks)
        assert {text.split("=")[0] for text in texts} == groups and len(texts) == len(groups)
        for text in texts:
            group = text.split("=")[0]
            assert text == (on[group][0] if group in on else f"{group}={OFF_OPTIONS[group]}")
