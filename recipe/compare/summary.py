"""Each variant in numbers: its mean over seeds with the interval, its best, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

from recipe.compare import statistics
from recipe.compare.statistics import Interval
from recipe.compare.units import Unit
from recipe.compare.variants import Variant, Variants
from recipe.results import Result


@dataclass(frozen=True)
class Summary:
    variant: Variant
    interval: Interval
    """Of the metric, over the seeds."""
    best: float
    """Of a single run."""
    epoch_s: float
    """Seconds of an epoch; NaN: not known. As the next three, a mean over the runs."""
    peak_mb: float
    trainable: float
    """Parameters."""
    multiply_adds: float
    """Of one image, forward."""
    efficient: bool
    """No other variant is as quick and as good, and better in one of them."""


def all_of(variants: Variants, value: Callable[[Result], float], unit: Unit) -> list[Summary]:
    """The baseline first, then the best first."""
    base = variants.by_levels.get(variants.baseline)
    found = [_summary(variant, value, unit) for variant in variants.by_levels.values()]
    sign = 1 if unit.higher_is_better else -1
    found.sort(key=lambda one: (one.variant is not base, -sign * one.interval.mean))
    known = [one for one in found if not math.isnan(one.epoch_s)]
    front = statistics.pareto([(one.epoch_s, sign * one.interval.mean) for one in known])
    efficient = {id(one) for one, is_on in zip(known, front, strict=True) if is_on}
    return [Summary(**{**vars(one), "efficient": id(one) in efficient}) for one in found]


def _summary(variant: Variant, value: Callable[[Result], float], unit: Unit) -> Summary:
    runs = list(variant.runs.values())
    values = [value(run) for run in runs]
    return Summary(
        variant=variant,
        interval=statistics.interval(values),
        best=max(values) if unit.higher_is_better else min(values),
        epoch_s=_mean(run.epoch_s for run in runs),
        peak_mb=_mean(run.peak_mb for run in runs),
        trainable=_mean(run.last.get("params/trainable") for run in runs),
        multiply_adds=_mean(run.last.get("params/multiply_adds") for run in runs),
        efficient=False,
    )


def _mean(values: Iterable[float | None]) -> float:
    there = [value for value in values if value is not None]
    return math.fsum(there) / len(there) if there else math.nan


@dataclass(frozen=True)
class Curve:
    """Of one metric over the epochs, as far as all runs of a variant went."""

    variant: Variant
    intervals: Sequence[Interval]


def curves(summaries: Sequence[Summary], metric: str) -> list[Curve]:
    """Those of the variants whose runs recorded the metric after each epoch."""
    found = []
    for summary in summaries:
        points = [run.curves.get(metric, []) for run in summary.variant.runs.values()]
        epochs = zip(*([value for _, value in curve] for curve in points), strict=False)
        finite = [[v for v in values if math.isfinite(v)] for values in epochs]
        if finite and all(finite):
            intervals = [statistics.interval(values) for values in finite]
            found.append(Curve(summary.variant, intervals))
    return found
