"""Summaries of variants over their seeds: mean, interval, best value, cost and learning curve."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recipe.compare.metric_unit import MetricUnit
from recipe.compare.pairs import find_metric_scales
from recipe.compare.variants import Levels, Variant, VariantSet
from recipe.evidence.intervals import ConfidenceInterval, t_interval, t_interval_bounds


@dataclass(frozen=True)
class VariantSummary:
    """The costs are means over the runs, NaN if unknown; multiply-adds are those of the forward
    pass of one image."""

    variant: Variant
    interval: ConfidenceInterval
    best_value: float
    """Of a single run; NaN for a metric without a better direction."""
    epoch_seconds: float
    peak_mb: float
    num_trainable_parameters: float
    multiply_adds: float
    is_efficient: bool
    """No other variant is better and not shown to be slower, or as good and shown to be faster."""


def summarize_variants(
    variants: VariantSet, unit: MetricUnit, compared_levels: Container[Levels]
) -> list[VariantSummary]:
    """Summaries of the baseline, the compared variants and the others, each from the best on; only
    compared variants can be efficient."""
    base = variants.by_levels.get(variants.baseline_levels)
    found = [_summarize_variant(variant, unit) for variant in variants.by_levels.values()]
    sign = unit.direction or 1

    def sort_key(one: VariantSummary) -> tuple[bool, bool, float]:
        return (
            one.variant is not base,
            one.variant.levels not in compared_levels,
            -sign * one.interval.mean,
        )

    found.sort(key=sort_key)
    runs = [run for one in found for run in one.variant.results.values()]
    if not unit.direction or find_metric_scales(runs, unit):
        return found
    compared = [one for one in found if one.variant.levels in compared_levels]
    efficient = dict(zip(map(id, compared), _find_efficient(compared, sign), strict=True))
    return [replace(one, is_efficient=efficient.get(id(one), False)) for one in found]


def _find_efficient(found: Sequence[VariantSummary], sign: int) -> list[bool]:
    """Costs count as equal if the interval of their ratio over paired seeds contains 1."""
    seeds = list(dict.fromkeys(seed for one in found for seed in one.variant.results))
    times = np.full((len(found), len(seeds)), np.nan)
    for row, one in enumerate(found):
        runs = one.variant.results
        seconds = [runs[seed].epoch_s if seed in runs else None for seed in seeds]
        times[row] = [math.log(value or math.nan) for value in seconds]
    known = np.isfinite(times).any(axis=1)
    means = np.array([sign * one.interval.mean for one in found])
    front = []
    for row, mean in enumerate(means):
        low, high = t_interval_bounds(times - times[row])  # of log(others / this)
        beaten = known & ((means > mean) & ~(low > 0) | (means == mean) & (high < 0))
        front.append(bool(known[row] and not beaten.any()))
    return front


def _summarize_variant(variant: Variant, unit: MetricUnit) -> VariantSummary:
    runs = list(variant.results.values())
    values = [unit.get_value(run) for run in runs]
    best = {1: max(values), -1: min(values), 0: math.nan}
    return VariantSummary(
        variant=variant,
        interval=unit.clip_interval(t_interval(values)),
        best_value=best[unit.direction],
        epoch_seconds=_compute_mean(run.epoch_s for run in runs),
        peak_mb=_compute_mean(run.peak_mb for run in runs),
        num_trainable_parameters=_compute_mean(run.last.get("params/trainable") for run in runs),
        multiply_adds=_compute_mean(run.last.get("params/multiply_adds") for run in runs),
        is_efficient=False,
    )


def _compute_mean(values: Iterable[float | None]) -> float:
    known = [value for value in values if value is not None]
    return math.fsum(known) / len(known) if known else math.nan


@dataclass(frozen=True)
class LearningCurve:
    """A metric by epoch, up to the last epoch that all runs of the variant have."""

    variant: Variant
    intervals: Sequence[ConfidenceInterval]
    is_truncated: bool


def compute_learning_curves(
    summaries: Sequence[VariantSummary], unit: MetricUnit
) -> list[LearningCurve]:
    """The curves of the variants whose runs recorded the metric after each epoch."""
    found = []
    for summary in summaries:
        points = [run.curves.get(unit.metric, []) for run in summary.variant.results.values()]
        epochs = zip(*([value for _, value in curve] for curve in points), strict=False)
        finite = [[v for v in values if math.isfinite(v)] for values in epochs]
        if finite and all(finite):
            intervals = [unit.clip_interval(t_interval(values)) for values in finite]
            shortened = len({len(curve) for curve in points}) > 1
            found.append(LearningCurve(summary.variant, intervals, shortened))
    return found
