"""What each trick did, pair by pair: differences over seeds, their tests, and a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from recipe.compare import factorial, pairs
from recipe.compare.finding import SIGNIFICANCE_LEVEL, Contrast, Finding, Verdict
from recipe.compare.metric_unit import MetricUnit
from recipe.compare.variants import Levels, VariantSet
from recipe.config.groups import OFF_OPTIONS
from recipe.evidence.intervals import t_interval
from recipe.evidence.multiple_testing import (
    can_reach_significance,
    holm_correction,
    min_seeds_for_significance,
)
from recipe.evidence.paired_test import sign_flip_test

ON_TOP_OF_KEPT: Contrast = "on top of what was kept"


def compute_findings(
    variants: VariantSet, unit: MetricUnit, greedy_path: Sequence[str] = ()
) -> list[Finding]:
    """Every question that the recorded variants can answer, each with its verdict.

    `path` are the variants that a greedy plan kept, as it calls them, the first with nothing on.
    """
    found = [
        *_compare_with_baseline(variants, unit),
        *_compare_with_full_set(variants, unit),
        *_compare_greedy_rounds(variants, unit, greedy_path),
        *factorial.compute_factorial_findings(variants, unit),
    ]
    judged: list[Finding] = []
    for question in dict.fromkeys(finding.contrast for finding in found):
        family = [finding for finding in found if finding.contrast == question]
        judged += _assign_verdicts(family, unit)
    return judged


def _compare_with_baseline(variants: VariantSet, unit: MetricUnit) -> Iterator[Finding]:
    base = variants.by_levels.get(variants.baseline_levels)
    for index, factor in enumerate(variants.factors):
        for level in factor.non_baseline_levels:
            with_it = variants.get_variant_with_level(variants.baseline_levels, index, level)
            if base and with_it:
                yield pairs.compare_variants(level, "alone", with_it, base, unit)


def _compare_with_full_set(variants: VariantSet, unit: MetricUnit) -> Iterator[Finding]:
    """Against the full set, if one was run: the one variant with every trick on the baseline's
    background."""
    tricks = [index for index, factor in enumerate(variants.factors) if factor.is_trick]
    full = [
        variant
        for levels, variant in variants.by_levels.items()
        if all(levels[index] != variants.baseline_levels[index] for index in tricks)
        and variants.get_background(variant) == variants.baseline_background
    ]
    if len(tricks) < 2 or len(full) != 1:
        return
    for index in tricks:
        factor = variants.factors[index]
        without = variants.get_variant_with_level(full[0].levels, index, factor.levels[0])
        if without:
            level = full[0].levels[index]
            yield pairs.compare_variants(level, "on top of the others", full[0], without, unit)


def _compare_greedy_rounds(
    variants: VariantSet, unit: MetricUnit, path: Sequence[str]
) -> Iterator[Finding]:  # fmt: skip
    """Of a greedy plan's rounds but the first, which is `alone`: each trick beside what was kept
    so far."""
    for name in path[1:]:
        kept = _find_levels(variants, name)
        before = variants.by_levels.get(kept) if kept else None
        if kept is None or before is None:
            continue
        for index, factor in enumerate(variants.factors):
            for level in factor.levels if _is_off(kept[index], factor.name) else ():
                with_it = variants.get_variant_with_level(kept, index, level)
                if with_it and level != kept[index]:
                    yield pairs.compare_variants(level, ON_TOP_OF_KEPT, with_it, before, unit, name)


def _find_levels(variants: VariantSet, name: str) -> Levels | None:
    """Those of the variant that an ablation calls so; None if there is none."""
    on, found = set(name.split(" ")), []
    for factor in variants.factors:
        fitting = [level for level in factor.levels if level.split(" ")[0] in on]
        off = [level for level in factor.levels if _is_off(level, factor.name)]
        if not (fitting or off):
            return None
        found.append((fitting or off)[0])
    return tuple(found)


def _is_off(level: str, group: str) -> bool:
    return level.split(" ")[0] == f"{group}={OFF_OPTIONS.get(group)}"


def _assign_verdicts(test_family: Sequence[Finding], unit: MetricUnit) -> Iterator[Finding]:
    """Corrects over the tricks that a question was asked of; those that did nothing in any run
    are no part of it, as they were not tried."""
    tried = [each for each in test_family if each.differences and not each.has_no_effect]
    raw = [sign_flip_test(each.differences) for each in tried]
    p_values = {
        id(each): both for each, *both in zip(tried, raw, holm_correction(raw), strict=True)
    }
    least = min_seeds_for_significance(max(1, len(tried)), SIGNIFICANCE_LEVEL)
    enough = {
        id(each)
        for place, each in enumerate(tried)
        if (n := len(each.differences)) >= least
        or can_reach_significance(raw, place, n, SIGNIFICANCE_LEVEL)
    }
    for each in test_family:
        interval = None
        if each.differences:
            interval = unit.clip_interval(t_interval(each.differences), minimum=-1.0)
        raw_p, p = p_values.get(id(each), (None, None))
        found = replace(
            each,
            interval=interval,
            raw_p_value=raw_p,
            corrected_p_value=p,
            num_tests=len(tried),
            min_seeds=least,
        )
        yield replace(found, verdict=_decide_verdict(found, unit, id(each) in enough))


def _decide_verdict(finding: Finding, unit: MetricUnit, has_enough_seeds: bool) -> Verdict:
    if finding.has_no_effect and finding.differences:
        return "no effect"
    if finding.interval is None or finding.corrected_p_value is None:
        return "unpaired"
    if not has_enough_seeds:
        return "too few"
    if finding.corrected_p_value > SIGNIFICANCE_LEVEL:
        return "open"
    sign = unit.direction if finding.contrast != "together" else 0
    if not sign:
        return "up" if finding.interval.mean > 0 else "down"
    return "helps" if finding.interval.mean * sign > 0 else "hurts"
