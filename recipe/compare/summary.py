"""Each variant in numbers: its mean over seeds with the interval, its best, and what it cost."""

from __future__ import annotations

import math
from collections.abc import Container, Iterable, Sequence
from dataclasses import dataclass, replace

import numpy as np

from recipe.compare.metric_unit import Unit
from recipe.compare.pairs import scales
from recipe.compare.variants import Levels, Variant, Variants
from recipe.evidence import statistics
from recipe.evidence.statistics import Interval


@dataclass(frozen=True)
class Summary:
    variant: Variant
    interval: Interval
    """Of the metric, over the seeds."""
    best: float
    """Of a single run; NaN where none is better by itself."""
    epoch_s: float
    """Seconds of an epoch; NaN: not known. As the next three, a mean over the runs."""
    peak_mb: float
    trainable: float
    """Parameters."""
    multiply_adds: float
    """Of one image, forward."""
    efficient: bool
    """No other variant is better and not shown to take longer, or as good and shown to be
    quicker."""


def all_of(variants: Variants, unit: Unit, among: Container[Levels]) -> list[Summary]:
    """The baseline first, then the best first; those that stand beside another, `among` which some
    are efficient, before the rest."""
    base = variants.by_levels.get(variants.baseline)
    found = [_summary(variant, unit) for variant in variants.by_levels.values()]
    sign = unit.sign or 1

    def place(one: Summary) -> tuple[bool, bool, float]:
        return (
            one.variant is not base,
            one.variant.levels not in among,
            -sign * one.interval.mean,
        )

    found.sort(key=place)
    runs = [run for one in found for run in one.variant.runs.values()]
    if not unit.sign or scales(runs, unit):
        return found
    beside = [one for one in found if one.variant.levels in among]
    front = dict(zip(map(id, beside), _efficient(beside, sign), strict=True))
    return [replace(one, efficient=front.get(id(one), False)) for one in found]


def _efficient(found: Sequence[Summary], sign: int) -> list[bool]:
    """Costs count as equal where the interval of the pairs' ratio holds 1: machines are noisy."""
    seeds = list(dict.fromkeys(seed for one in found for seed in one.variant.runs))
    times = np.full((len(found), len(seeds)), np.nan)
    for row, one in enumerate(found):
        runs = one.variant.runs
        times[row] = [
            math.log(runs[seed].epoch_s or math.nan) if seed in runs else math.nan
            for seed in seeds
        ]  # fmt: skip
    known = np.isfinite(times).any(axis=1)
    means = np.array([sign * one.interval.mean for one in found])
    front = []
    for row, mean in enumerate(means):
        low, high = statistics.intervals(times - times[row])  # of the others' cost over this one's
        beaten = known & ((means > mean) & ~(low > 0) | (means == mean) & (high < 0))
        front.append(bool(known[row] and not beaten.any()))
    return front


def _summary(variant: Variant, unit: Unit) -> Summary:
    runs = list(variant.runs.values())
    values = [unit.of(run) for run in runs]
    best = {1: max(values), -1: min(values), 0: math.nan}
    return Summary(
        variant=variant,
        interval=unit.possible(statistics.interval(values)),
        best=best[unit.sign],
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
    shortened: bool
    """Some of the runs went further."""


def curves(summaries: Sequence[Summary], unit: Unit) -> list[Curve]:
    """Those of the variants whose runs recorded the metric after each epoch."""
    found = []
    for summary in summaries:
        points = [run.curves.get(unit.metric, []) for run in summary.variant.runs.values()]
        epochs = zip(*([value for _, value in curve] for curve in points), strict=False)
        finite = [[v for v in values if math.isfinite(v)] for values in epochs]
        if finite and all(finite):
            intervals = [unit.possible(statistics.interval(values)) for values in finite]
            shortened = len({len(curve) for curve in points}) > 1
            found.append(Curve(summary.variant, intervals, shortened))
    return found
