"""All that a comparison found out, and what it can't tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recipe.compare import findings, sentences, summary
from recipe.compare.finding import Finding
from recipe.compare.pairs import scales
from recipe.compare.selection import Selection
from recipe.compare.summary import Summary
from recipe.compare.units import Unit
from recipe.compare.variants import Variants
from recipe.wording import counted, listed


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
        return cls(selection, variants, unit, summary.all_of(variants, unit), found)

    @property
    def baseline(self) -> float:
        """Its mean; NaN if no run is of it."""
        base = self.variants.by_levels.get(self.variants.baseline)
        return next((one.interval.mean for one in self.summaries if one.variant is base), math.nan)

    @property
    def is_one_scale(self) -> bool:
        """Whether the metric of every variant is measured alike."""
        return len(scales(self.selection.runs, self.unit)) < 2

    @property
    def sentences(self) -> list[str]:
        return [sentences.sentence(each, self.unit, self.baseline) for each in self.findings]


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
        yield f"no run is of the baseline ({base}), or of one trick beside it; say --baseline"
    seeds = {one.interval.n for one in found.summaries}
    if len(seeds) > 1:
        few = [one.variant.name for one in found.summaries if one.interval.n < max(seeds)]
        yield (
            f"not every variant has {counted(max(seeds), 'seed')}: {listed(few)} "
            f"{'has' if len(few) == 1 else 'have'} fewer; pairs are made of those that both have"
        )
    if not found.is_one_scale:
        losses = scales(found.selection.runs, found.unit)
        yield (
            f"{found.unit.metric} is of different losses ({listed(losses)}), so it is on different "
            "scales; --metric val/accuracy compares all variants"
        )
    values = {
        run.last[found.unit.metric] for o in found.summaries for run in o.variant.runs.values()
    }
    if len(values) == 1 and runs > 1:
        yield f"{found.unit.metric} is {found.unit.shown(values.pop())} in every run"
