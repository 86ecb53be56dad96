"""All that a comparison found out, and what it can't tell."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from recipe.compare import findings, sentences, summary
from recipe.compare.findings import Finding
from recipe.compare.selection import Selection
from recipe.compare.summary import Summary
from recipe.compare.units import Unit
from recipe.compare.variants import Variants
from recipe.results import Result
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

        def value(run: Result) -> float:
            return run.last[metric]

        summaries = summary.all_of(variants, value, unit)
        found = findings.all_of(variants, value, unit.higher_is_better)
        return cls(selection, variants, unit, summaries, found)

    @property
    def baseline(self) -> float:
        """Its mean; NaN if no run is of it."""
        base = self.variants.by_levels.get(self.variants.baseline)
        return next((one.interval.mean for one in self.summaries if one.variant is base), math.nan)

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
    values = {
        run.last[found.unit.metric] for o in found.summaries for run in o.variant.runs.values()
    }
    if len(values) == 1 and runs > 1:
        yield f"{found.unit.metric} is {found.unit.shown(values.pop())} in every run"
