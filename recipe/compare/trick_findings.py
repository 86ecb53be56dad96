"""Findings about each trick from paired runs: differences over seeds, tests and verdicts."""

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
    """Returns the findings of all contrasts that the variants allow.

    `greedy_path` are the names of the variants that a greedy plan kept, the first the baseline.
    """
    found = [
        *_compare_with_baseline(variants, unit),
        *_compare_with_full_set(variants, unit),
        *_compare_greedy_rounds(variants, unit, greedy_path),
        *factorial.compute_factorial_findings(variants, unit),
    ]
    return [
        finding
        for contrast in dict.fromkeys(finding.contrast for finding in found)
        for finding in _assign_verdicts([each for each in found if each.contrast == contrast], unit)
    ]


def _compare_with_baseline(variants: VariantSet, unit: MetricUnit) -> Iterator[Finding]:
    base = variants.by_levels.get(variants.baseline_levels)
    for index, factor in enumerate(variants.factors):
        for level in factor.non_baseline_levels:
            with_it = variants.get_variant_with_level(variants.baseline_levels, index, level)
            if base and with_it:
                yield pairs.compare_variants(level, "alone", with_it, base, unit)


def _compare_with_full_set(variants: VariantSet, unit: MetricUnit) -> Iterator[Finding]:
    """Compares the variant with all tricks, on the baseline's background, with those that lack
    one of them."""
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
) -> Iterator[Finding]:
    """Compares the tricks of later rounds of a greedy plan with the variant kept so far; the
    first round is `alone`."""
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
    """The levels of the variant that an ablation gave this name, or None."""
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
    """Corrects for multiple tests within a contrast; tricks without an effect in any run are not
    tested."""
    tested = [each for each in test_family if each.differences and not each.has_no_effect]
    raw = [sign_flip_test(each.differences) for each in tested]
    corrected = holm_correction(raw)
    min_seeds = min_seeds_for_significance(max(1, len(tested)), SIGNIFICANCE_LEVEL)
    for each in test_family:
        interval = None
        if each.differences:
            interval = unit.clip_interval(t_interval(each.differences), minimum=-1.0)
        found = replace(each, interval=interval, num_tests=len(tested), min_seeds=min_seeds)
        has_enough_seeds = False
        if each in tested:
            index, n = tested.index(each), len(each.differences)
            found = replace(found, raw_p_value=raw[index], corrected_p_value=corrected[index])
            has_enough_seeds = n >= min_seeds or can_reach_significance(
                raw, index, n, SIGNIFICANCE_LEVEL
            )
        yield replace(found, verdict=_decide_verdict(found, unit, has_enough_seeds))


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
