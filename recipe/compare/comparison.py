"""All that a comparison found out, and what it can't tell."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recipe.compare import findings, summary
from recipe.compare.finding import Finding
from recipe.compare.metric_unit import Unit
from recipe.compare.pairs import scales, training_only
from recipe.compare.report import sentences
from recipe.compare.selection import Selection
from recipe.compare.summary import Summary
from recipe.compare.variants import Variant, Variants
from recipe.formatting import counted, listed

MOST = 6
"""Variants that are named together."""


@dataclass(frozen=True)
class Comparison:
    selection: Selection
    variants: Variants
    unit: Unit
    summaries: Sequence[Summary]
    findings: Sequence[Finding]

    @classmethod
    def of(cls, selection: Selection, variants: Variants, metric: str) -> Comparison:
        unit = Unit(metric)
        path = selection.greedy.variants if selection.greedy else []
        found = findings.all_of(variants, unit, path)
        beside = {levels for each in found for levels in each.of}
        summaries = summary.all_of(variants, unit, beside or set(variants.by_levels))
        return cls(selection, variants, unit, summaries, found)

    @property
    def has_baseline(self) -> bool:
        """Whether any run is of it."""
        return self.variants.baseline in self.variants.by_levels

    @property
    def baseline(self) -> float:
        """Its mean; NaN if no run is of it."""
        base = self.variants.by_levels.get(self.variants.baseline)
        return next((one.interval.mean for one in self.summaries if one.variant is base), math.nan)

    @property
    def compared(self) -> list[Summary]:
        """Of the variants that stand beside another; of all, where none does."""
        levels = {levels for each in self.findings for levels in each.of}
        return [one for one in self.summaries if one.variant.levels in levels or not levels]

    @property
    def left_out(self) -> list[Variant]:
        """The variants that stand beside no other."""
        beside = {one.variant.levels for one in self.compared}
        return [one.variant for one in self.summaries if one.variant.levels not in beside]

    @property
    def is_one_scale(self) -> bool:
        """Whether the metric of every variant is measured alike."""
        return not scales(self.selection.runs, self.unit)

    @property
    def sentences(self) -> list[str]:
        return [sentences.sentence(each, self.unit, self.baseline) for each in self.findings]


def _beside_nothing(found: Comparison) -> Iterator[str]:
    """Which variants no trick was told of, and why."""
    variants = found.variants
    elsewhere = [one for one in found.left_out if variants.on(one) != variants.background]
    if elsewhere:
        own = " ".join(variants.background)
        most = Counter(map(variants.on, elsewhere)).most_common(1)[0][0]
        other = ",".join(most).replace(" ", ",")
        yield (
            f"{counted(len(elsewhere), 'variant')} not compared, as the rest of their settings "
            f"isn't the baseline's ({own}): {listed([one.name for one in elsewhere], MOST)}; "
            f"--baseline {other} compares with those settings"
        )
    if rest := [one.name for one in found.left_out if one not in elsewhere]:
        yield (
            f"{counted(len(rest), 'variant')} not compared, as no other was run that differs in "
            f"one trick and is the baseline or has all tricks: {listed(rest, MOST)}"
        )


def cautions(found: Comparison) -> Iterator[str]:
    """What was left out, and what keeps the rest from being told."""
    yield from found.selection.cautions
    if found.variants.repeated:
        number = counted(found.variants.repeated, "run")
        yield f"{number} left out: a later one is of the same variant and seed"
    runs = sum(len(one.variant.runs) for one in found.summaries)
    if runs == 1:
        yield "this is a single run, so nothing can be compared"
    elif len(found.summaries) == 1:
        yield "all runs are of one variant, so there is nothing to compare it with"
    elif not found.findings:
        base = " ".join(found.variants.baseline)
        first = ",".join(found.variants.nearest(found.variants.baseline)[0]).replace(" ", ",")
        if found.has_baseline:
            yield f"no run differs from the baseline ({base}) in one trick alone"
            return
        yield (
            f"no run is of the baseline ({base}), or of one trick beside it; say --baseline, such "
            f"as --baseline {first}"
        )
    else:
        yield from _beside_nothing(found)
    seeds = {one.interval.n for one in found.compared}
    if len(seeds) > 1:
        few = [one.variant.name for one in found.compared if one.interval.n < max(seeds)]
        yield (
            f"not every variant has {counted(max(seeds), 'seed')}: {listed(few)} "
            f"{'has' if len(few) == 1 else 'have'} fewer; pairs are made of those that both have"
        )
    sweeps = {run.sweep for one in found.compared for run in one.variant.runs.values()}
    if len(sweeps) > 1 and runs > 1:
        yield (
            f"the runs were recorded in {counted(len(sweeps), 'sweep')} or by themselves, at other "
            "times: what they cost in seconds may differ for that alone"
        )
    if different := scales(found.selection.runs, found.unit):
        why = f"{found.unit.metric} is of different losses ({listed(different)}), so it is on "
        why += "different scales"
        if found.unit.is_training:
            why = training_only(different, found.unit)
        yield f"{why}; --metric val/accuracy compares all variants"
    if found.unit.is_training:
        yield (
            f"{found.unit.metric} is measured in training, batch by batch before each step, with "
            "dropout and BatchNorm as they train, so it doesn't say which model is better"
        )
    values = {
        run.last[found.unit.metric] for o in found.summaries for run in o.variant.runs.values()
    }
    if len(values) == 1 and runs > 1:
        yield f"{found.unit.metric} is {found.unit.shown(values.pop())} in every run"
