"""Findings of factorial plans: main effects and two-way interactions."""

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


def compute_factorial_findings(variants: VariantSet, unit: MetricUnit) -> Iterator[Finding]:
    """Yields main effects and interactions if every combination of levels was run."""
    factors = variants.factors
    if len(factors) < 2 or len(variants.by_levels) != math.prod(len(f.levels) for f in factors):
        return
    runs = {
        frozenset(set(levels) - set(variants.baseline_levels)): variant.results
        for levels, variant in variants.by_levels.items()
    }
    seeds, unpaired = _find_complete_seeds(runs, unit)
    if not seeds:
        return
    groups = [factor.non_baseline_levels for factor in factors]
    blocks = [{on: unit.get_value(of[seed]) for on, of in runs.items()} for seed in seeds]
    summaries = {t: _summarize_trick(t, runs, seeds) for t in itertools.chain(*groups)}
    for trick, differences in compute_main_effects(blocks, groups).items():
        pairs = [
            [(of[seed], runs[on - {trick}][seed]) for on, of in runs.items() if trick in on]
            for seed in seeds
        ]
        yield replace(
            summaries[trick],
            contrast="on average",
            seeds=seeds,
            differences=differences,
            unpaired_seeds=unpaired,
            time_ratio=compute_time_ratio(pairs),
            compared_levels=tuple(variants.by_levels),
        )
    for two, differences in compute_interactions(blocks, groups).items():
        finding = Finding(
            " with ".join(two),
            "together",
            seeds=seeds,
            differences=differences,
            unpaired_seeds=unpaired,
            compared_levels=tuple(variants.by_levels),
            num_runs=len(seeds),
        )
        if idle := next((summaries[t] for t in two if summaries[t].has_no_effect), None):
            finding = replace(
                finding,
                num_no_effect_runs=idle.num_runs,
                num_runs=idle.num_runs,
                audited_trick=idle.audited_trick or idle.trick,
            )
        yield finding


def _summarize_trick(
    trick: str, runs: Mapping[ActiveTricks, ResultsBySeed], seeds: Sequence[str]
) -> Finding:
    variants = [on for on in runs if trick in on]
    with_it = [runs[on][seed] for on in variants for seed in seeds]
    without = [runs[on - {trick}][seed] for on in variants for seed in seeds]
    return summarize_trick(trick, with_it, without)


def _find_complete_seeds(
    runs: Mapping[ActiveTricks, ResultsBySeed], unit: MetricUnit
) -> tuple[list[str], dict[str, list[str]]]:
    """The seeds with which all variants were run and started alike; the others by reason."""
    base = runs[frozenset()]
    complete = set(base)
    unpaired: dict[str, list[str]] = defaultdict(list)
    for of in runs.values():
        seeds, reasons = pair_runs(of, base, unit, (MISSING_VARIANT_REASON, MISSING_VARIANT_REASON))
        complete &= set(seeds)
        for reason, others in reasons.items():
            unpaired[reason] += [seed for seed in others if seed not in unpaired[reason]]
    return sort_seeds(complete), dict(unpaired)
