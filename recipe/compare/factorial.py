"""Main effects and two-way interactions, where every combination of the factors' levels was run."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from recipe.compare.finding import Finding
from recipe.compare.metric_unit import MetricUnit
from recipe.compare.pairs import (
    ResultsBySeed,
    compute_time_ratio,
    pair_runs,
    sort_seeds,
    summarize_trick,
)
from recipe.compare.variants import VariantSet
from recipe.evidence.factorial import compute_interactions, compute_main_effects

MISSING_VARIANT_REASON = "not every variant was run"

ActiveTricks = frozenset[str]
"""The tricks that a variant has."""


def compute_factorial_findings(variants: VariantSet, unit: MetricUnit) -> Iterator[Finding]:
    """Each level against its factor's baseline, averaged over the rest, and each two of them."""
    factors = variants.factors
    if len(factors) < 2 or len(variants.by_levels) != math.prod(len(f.levels) for f in factors):
        return
    runs = {
        frozenset(set(levels) - set(variants.baseline_levels)): variant.results
        for levels, variant in variants.by_levels.items()
    }
    alike, refused = _find_complete_seeds(runs, unit)
    if not alike:
        return
    groups = [factor.non_baseline_levels for factor in factors]
    blocks = [{on: unit.get_value(of[seed]) for on, of in runs.items()} for seed in alike]
    alone = {t: _summarize_trick(t, runs, alike) for t in itertools.chain(*groups)}
    for trick, differences in compute_main_effects(blocks, groups).items():
        pairs = [
            [(of[seed], runs[on - {trick}][seed]) for on, of in runs.items() if trick in on]
            for seed in alike
        ]
        yield replace(
            alone[trick],
            contrast="on average",
            seeds=alike,
            differences=differences,
            unpaired_seeds=refused,
            time_ratio=compute_time_ratio(pairs),
            compared_levels=tuple(variants.by_levels),
        )
    for two, differences in compute_interactions(blocks, groups).items():
        idle = next((t for t in two if alone[t].has_no_effect), "")
        yield Finding(
            " with ".join(two),
            "together",
            seeds=alike,
            differences=differences,
            unpaired_seeds=refused,
            compared_levels=tuple(variants.by_levels),
            num_no_effect_runs=alone[idle].num_runs if idle else 0,
            num_runs=alone[idle].num_runs if idle else len(alike),
            audited_trick=alone[idle].audited_trick or idle if idle else "",
        )


def _summarize_trick(
    trick: str, runs: Mapping[ActiveTricks, ResultsBySeed], seeds: Sequence[str]
) -> Finding:
    having = [on for on in runs if trick in on]
    with_it = [runs[on][seed] for on in having for seed in seeds]
    without = [runs[on - {trick}][seed] for on in having for seed in seeds]
    return summarize_trick(trick, with_it, without)


def _find_complete_seeds(
    runs: Mapping[ActiveTricks, ResultsBySeed], unit: MetricUnit
) -> tuple[list[str], dict[str, list[str]]]:
    """The seeds of which all variants were run and started alike."""
    base = runs[frozenset()]
    alike = set(base)
    refused: dict[str, list[str]] = defaultdict(list)
    for of in runs.values():
        seeds, reasons = pair_runs(of, base, unit, (MISSING_VARIANT_REASON, MISSING_VARIANT_REASON))
        alike &= set(seeds)
        for reason, left_out in reasons.items():
            refused[reason] += [seed for seed in left_out if seed not in refused[reason]]
    return sort_seeds(alike), dict(refused)
