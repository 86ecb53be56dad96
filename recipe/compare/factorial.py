"""Main effects and two-way interactions, where every combination of the factors' levels was run."""

from __future__ import annotations

import itertools
import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace

from recipe.compare.finding import Finding
from recipe.compare.metric_unit import Unit
from recipe.compare.pairs import Runs, about, in_order, pair, slower
from recipe.compare.variants import Variants
from recipe.evidence import statistics

INCOMPLETE = "not every variant was run"

On = frozenset[str]
"""The tricks that a variant has."""


def findings(variants: Variants, unit: Unit) -> Iterator[Finding]:
    """Each level against its factor's baseline, averaged over the rest, and each two of them."""
    factors = variants.factors
    if len(factors) < 2 or len(variants.by_levels) != math.prod(len(f.levels) for f in factors):
        return
    runs = {
        frozenset(set(levels) - set(variants.baseline)): variant.runs
        for levels, variant in variants.by_levels.items()
    }
    alike, refused = _complete(runs, unit)
    if not alike:
        return
    groups = [factor.tricks for factor in factors]
    blocks = [{on: unit.of(of[seed]) for on, of in runs.items()} for seed in alike]
    alone = {t: _about(t, runs, alike) for t in itertools.chain(*groups)}
    for trick, differences in statistics.main_effects(blocks, groups).items():
        pairs = [
            [(of[seed], runs[on - {trick}][seed]) for on, of in runs.items() if trick in on]
            for seed in alike
        ]
        yield replace(
            alone[trick], question="on average", seeds=alike, differences=differences,
            unpaired=refused, slower=slower(pairs), of=tuple(variants.by_levels),
        )  # fmt: skip
    for two, differences in statistics.interactions(blocks, groups).items():
        idle = next((t for t in two if alone[t].did_nothing), "")
        yield Finding(
            " with ".join(two), "together", seeds=alike, differences=differences, unpaired=refused,
            of=tuple(variants.by_levels),
            idle=alone[idle].runs if idle else 0, runs=alone[idle].runs if idle else len(alike),
            whose=alone[idle].whose or idle if idle else "",
        )  # fmt: skip


def _about(trick: str, runs: Mapping[On, Runs], seeds: Sequence[str]) -> Finding:
    having = [on for on in runs if trick in on]
    with_it = [runs[on][seed] for on in having for seed in seeds]
    without = [runs[on - {trick}][seed] for on in having for seed in seeds]
    return about(trick, with_it, without)


def _complete(runs: Mapping[On, Runs], unit: Unit) -> tuple[list[str], dict[str, list[str]]]:
    """The seeds of which all variants were run and started alike."""
    base = runs[frozenset()]
    alike = set(base)
    refused: dict[str, list[str]] = defaultdict(list)
    for of in runs.values():
        seeds, reasons = pair(of, base, unit, (INCOMPLETE, INCOMPLETE))
        alike &= set(seeds)
        for reason, left_out in reasons.items():
            refused[reason] += [seed for seed in left_out if seed not in refused[reason]]
    return in_order(alike), dict(refused)
