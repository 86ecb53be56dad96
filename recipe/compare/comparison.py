"""The result of a comparison: findings, summaries of variants, and cautions."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recipe.compare import sentences, summary, trick_findings
from recipe.compare.finding import Finding
from recipe.compare.metric_unit import MetricUnit
from recipe.compare.pairs import explain_training_metric, find_metric_scales
from recipe.compare.selection import Selection
from recipe.compare.summary import VariantSummary
from recipe.compare.variants import Levels, Variant, VariantSet
from recipe.formatting import format_list, pluralize

MAX_LISTED_VARIANTS = 6


@dataclass(frozen=True)
class Comparison:
    selection: Selection
    variants: VariantSet
    unit: MetricUnit
    summaries: Sequence[VariantSummary]
    findings: Sequence[Finding]

    @classmethod
    def from_selection(cls, selection: Selection, variants: VariantSet, metric: str) -> Comparison:
        unit = MetricUnit(metric)
        path = selection.greedy_plan.kept_variants if selection.greedy_plan else []
        found = trick_findings.compute_findings(variants, unit, path)
        compared = {levels for finding in found for levels in finding.compared_levels}
        summaries = summary.summarize_variants(variants, unit, compared or set(variants.by_levels))
        return cls(selection, variants, unit, summaries, found)

    @property
    def has_baseline(self) -> bool:
        """Whether there are runs of the baseline."""
        return self.variants.baseline_levels in self.variants.by_levels

    @property
    def baseline_mean(self) -> float:
        """The baseline's mean; NaN without runs of it."""
        base = self.variants.by_levels.get(self.variants.baseline_levels)
        return next((one.interval.mean for one in self.summaries if one.variant is base), math.nan)

    @property
    def compared_summaries(self) -> list[VariantSummary]:
        """Those of the variants that were compared with another one; all if none was."""
        levels = {levels for each in self.findings for levels in each.compared_levels}
        return [one for one in self.summaries if one.variant.levels in levels or not levels]

    @property
    def uncompared_variants(self) -> list[Variant]:
        compared = {one.variant.levels for one in self.compared_summaries}
        return [one.variant for one in self.summaries if one.variant.levels not in compared]

    @property
    def has_single_scale(self) -> bool:
        """Whether the metric is measured alike in all runs."""
        return not find_metric_scales(self.selection.results, self.unit)

    @property
    def finding_texts(self) -> list[str]:
        return [
            sentences.describe_finding(each, self.unit, self.baseline_mean)
            for each in self.findings
        ]


def _format_baseline(levels: Levels) -> str:
    """Levels as a value of --baseline."""
    return ",".join(levels).replace(" ", ",")


def _iter_uncompared_cautions(found: Comparison) -> Iterator[str]:
    variants = found.variants
    uncompared = found.uncompared_variants
    elsewhere = [
        variant
        for variant in uncompared
        if variants.get_background(variant) != variants.baseline_background
    ]
    if elsewhere:
        background = " ".join(variants.baseline_background)
        most = Counter(map(variants.get_background, elsewhere)).most_common(1)[0][0]
        yield (
            f"{pluralize(len(elsewhere), 'variant')} not compared, as other settings differ from "
            f"the baseline's ({background}): "
            f"{format_list([variant.name for variant in elsewhere], MAX_LISTED_VARIANTS)}; use "
            f"--baseline {_format_baseline(most)} to compare with those settings"
        )
    if rest := [variant.name for variant in uncompared if variant not in elsewhere]:
        yield (
            f"{pluralize(len(rest), 'variant')} not compared, as none that differs in one trick is "
            f"the baseline or has all tricks: {format_list(rest, MAX_LISTED_VARIANTS)}"
        )


def _iter_missing_comparison_cautions(found: Comparison) -> Iterator[str]:
    if sum(len(one.variant.results) for one in found.summaries) == 1:
        yield "this is a single run, so nothing can be compared"
    elif len(found.summaries) == 1:
        yield "all runs are of one variant, so there is nothing to compare it with"
    else:
        base = " ".join(found.variants.baseline_levels)
        if found.has_baseline:
            yield f"no variant differs from the baseline ({base}) in a single trick"
        else:
            nearest = found.variants.find_nearest(found.variants.baseline_levels)[0]
            yield (
                f"there are no runs of the baseline ({base}), and no variants that differ in a "
                f"single trick; set another one, such as --baseline {_format_baseline(nearest)}"
            )


def iter_cautions(found: Comparison) -> Iterator[str]:
    """What was left out, and what limits the conclusions."""
    metric, is_training = found.unit.metric, found.unit.is_training_metric
    yield from found.selection.cautions
    if found.variants.num_repeated:
        number = pluralize(found.variants.num_repeated, "run")
        yield f"{number} left out: a later one is of the same variant and seed"
    if found.findings:
        yield from _iter_uncompared_cautions(found)
    else:
        yield from _iter_missing_comparison_cautions(found)
    counts = {one.interval.n for one in found.compared_summaries}
    if len(counts) > 1:
        few = [o.variant.name for o in found.compared_summaries if o.interval.n < max(counts)]
        yield (
            f"not every variant has {pluralize(max(counts), 'seed')}: {format_list(few)} "
            f"{'has' if len(few) == 1 else 'have'} fewer; only common seeds are paired"
        )
    compared_runs = [run for o in found.compared_summaries for run in o.variant.results.values()]
    num_sweeps = len({run.sweep for run in compared_runs})
    if num_sweeps > 1:
        yield (
            f"the runs were recorded in {pluralize(num_sweeps, 'sweep')} or outside of sweeps, at "
            "different times, which alone can change their costs in seconds"
        )
    if different := find_metric_scales(found.selection.results, found.unit):
        reason = (
            explain_training_metric(different, found.unit)
            if is_training
            else f"{metric} has different scales, those of the losses {format_list(different)}"
        )
        yield f"{reason}; --metric val/accuracy compares all variants"
    if is_training:
        yield (
            f"{metric} is measured on training batches, before each step, with dropout and "
            "BatchNorm in training mode, so it doesn't show which model is better"
        )
    runs = [run for one in found.summaries for run in one.variant.results.values()]
    values = {found.unit.get_value(run) for run in runs}
    if len(values) == 1 and len(runs) > 1:
        yield f"{metric} is {found.unit.format_value(values.pop())} in every run"
