"""All that a comparison found out, and what it can't tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recipe.compare import findings, sentences, summary
from recipe.compare.finding import Finding
from recipe.compare.metric_unit import MetricUnit
from recipe.compare.pairs import explain_training_metric, find_metric_scales
from recipe.compare.selection import Selection
from recipe.compare.summary import VariantSummary
from recipe.compare.variants import Variant, VariantSet
from recipe.formatting import format_list, pluralize

MAX_LISTED_VARIANTS = 6
"""Variants that are named together."""


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
        found = findings.compute_findings(variants, unit, path)
        beside = {levels for each in found for levels in each.compared_levels}
        summaries = summary.summarize_variants(variants, unit, beside or set(variants.by_levels))
        return cls(selection, variants, unit, summaries, found)

    @property
    def has_baseline(self) -> bool:
        """Whether any run is of it."""
        return self.variants.baseline_levels in self.variants.by_levels

    @property
    def baseline_mean(self) -> float:
        """Its mean; NaN if no run is of it."""
        base = self.variants.by_levels.get(self.variants.baseline_levels)
        return next((one.interval.mean for one in self.summaries if one.variant is base), math.nan)

    @property
    def compared_summaries(self) -> list[VariantSummary]:
        """Of the variants that stand beside another; of all, where none does."""
        levels = {levels for each in self.findings for levels in each.compared_levels}
        return [one for one in self.summaries if one.variant.levels in levels or not levels]

    @property
    def unmatched_variants(self) -> list[Variant]:
        """The variants that stand beside no other."""
        beside = {one.variant.levels for one in self.compared_summaries}
        return [one.variant for one in self.summaries if one.variant.levels not in beside]

    @property
    def has_single_scale(self) -> bool:
        """Whether the metric of every variant is measured alike."""
        return not find_metric_scales(self.selection.results, self.unit)

    @property
    def finding_texts(self) -> list[str]:
        return [
            sentences.describe_finding(each, self.unit, self.baseline_mean)
            for each in self.findings
        ]


def _iter_unmatched_cautions(found: Comparison) -> Iterator[str]:
    """Which variants no trick was told of, and why."""
    variants = found.variants
    elsewhere = [
        one
        for one in found.unmatched_variants
        if variants.get_background(one) != variants.baseline_background
    ]
    if elsewhere:
        own = " ".join(variants.baseline_background)
        most = Counter(map(variants.get_background, elsewhere)).most_common(1)[0][0]
        other = ",".join(most).replace(" ", ",")
        yield (
            f"{pluralize(len(elsewhere), 'variant')} not compared, as the rest of their settings "
            f"isn't the baseline's ({own}): "
            f"{format_list([one.name for one in elsewhere], MAX_LISTED_VARIANTS)}; "
            f"--baseline {other} compares with those settings"
        )
    if rest := [one.name for one in found.unmatched_variants if one not in elsewhere]:
        yield (
            f"{pluralize(len(rest), 'variant')} not compared, as no other was run that differs in "
            "one trick and is the baseline or has all tricks: "
            f"{format_list(rest, MAX_LISTED_VARIANTS)}"
        )


def iter_cautions(found: Comparison) -> Iterator[str]:
    """What was left out, and what keeps the rest from being told."""
    yield from found.selection.cautions
    if found.variants.num_repeated:
        number = pluralize(found.variants.num_repeated, "run")
        yield f"{number} left out: a later one is of the same variant and seed"
    runs = sum(len(one.variant.results) for one in found.summaries)
    if runs == 1:
        yield "this is a single run, so nothing can be compared"
    elif len(found.summaries) == 1:
        yield "all runs are of one variant, so there is nothing to compare it with"
    elif not found.findings:
        base = " ".join(found.variants.baseline_levels)
        first = ",".join(found.variants.find_nearest(found.variants.baseline_levels)[0]).replace(
            " ", ","
        )
        if found.has_baseline:
            yield f"no run differs from the baseline ({base}) in one trick alone"
            return
        yield (
            f"no run is of the baseline ({base}), or of one trick beside it; say --baseline, such "
            f"as --baseline {first}"
        )
    else:
        yield from _iter_unmatched_cautions(found)
    seeds = {one.interval.n for one in found.compared_summaries}
    if len(seeds) > 1:
        few = [one.variant.name for one in found.compared_summaries if one.interval.n < max(seeds)]
        yield (
            f"not every variant has {pluralize(max(seeds), 'seed')}: {format_list(few)} "
            f"{'has' if len(few) == 1 else 'have'} fewer; pairs are made of those that both have"
        )
    sweeps = {run.sweep for one in found.compared_summaries for run in one.variant.results.values()}
    if len(sweeps) > 1 and runs > 1:
        yield (
            f"the runs were recorded in {pluralize(len(sweeps), 'sweep')} or by themselves, at "
            "other "
            "times: what they cost in seconds may differ for that alone"
        )
    if different := find_metric_scales(found.selection.results, found.unit):
        why = f"{found.unit.metric} is of different losses ({format_list(different)}), so it is on "
        why += "different scales"
        if found.unit.is_training_metric:
            why = explain_training_metric(different, found.unit)
        yield f"{why}; --metric val/accuracy compares all variants"
    if found.unit.is_training_metric:
        yield (
            f"{found.unit.metric} is measured in training, batch by batch before each step, with "
            "dropout and BatchNorm as they train, so it doesn't say which model is better"
        )
    values = {
        run.last[found.unit.metric] for o in found.summaries for run in o.variant.results.values()
    }
    if len(values) == 1 and runs > 1:
        yield f"{found.unit.metric} is {found.unit.format_value(values.pop())} in every run"
