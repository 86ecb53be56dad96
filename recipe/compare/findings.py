"""What each trick did, pair by pair: differences over seeds, their tests, and a verdict."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Literal

from recipe.compare import statistics
from recipe.compare.statistics import Interval
from recipe.compare.variants import Variant, Variants
from recipe.results import Result

LEVEL = 0.05
"""What p may be at most, of a trick that is shown to help or hurt."""

LARGEST_FACTORIAL = 10
"""Factors of which every combination is looked for."""

Question = Literal["alone", "on top of the others", "on average", "together"]
"""`alone`: the trick against the baseline. `on top of the others`: the full set against the full
set without it. `on average`, over everything else, in a factorial plan; `together`: by how much the
effect of one is larger where the other is on."""

Verdict = Literal["helps", "hurts", "open", "too few", "no effect", "unpaired"]


@dataclass(frozen=True)
class Finding:
    trick: str
    question: Question
    seeds: Sequence[str] = ()
    differences: Sequence[float] = ()
    """With the trick less without it, in the metric's own unit, one a seed."""
    unpaired: Mapping[str, Sequence[str]] = field(default_factory=dict)
    """Why runs of these seeds could not be paired."""
    idle: int = 0
    """Runs in which the audit saw no effect of the trick."""
    runs: int = 0
    """Runs with the trick."""
    slower: Interval | None = None
    """Seconds of an epoch with it over those without: the geometric mean of the pairs."""
    bites: float | None = None
    """The share of steps on which a clip bit."""
    interval: Interval | None = None
    p: float | None = None
    """Of the exact sign-flip test, corrected by Holm over `tests` of this question."""
    tests: int = 1
    least: int = 0
    """Seeds below which no verdict is possible."""
    verdict: Verdict = "unpaired"


def pair(
    one: Mapping[str, Result], other: Mapping[str, Result]
) -> tuple[list[str], dict[str, list[str]]]:
    """The seeds of which both have a run, started alike; and why others could not be paired."""
    seeds, refused = [], defaultdict(list)
    for seed in sorted({*one, *other}, key=_order):
        if seed not in one or seed not in other:
            refused["only one of the two was run"].append(seed)
        elif reason := _unlike(one[seed], other[seed]):
            refused[reason].append(seed)
        else:
            seeds.append(seed)
    return seeds, dict(refused)


def _unlike(one: Result, other: Result) -> str:
    """Why two runs of one seed can't be compared; empty if they can."""
    if not one.start or not other.start:
        return "recorded without hashes of what it started from"
    names = [name for name in one.start if one.start[name] != other.start.get(name)]
    return f"they started from other {' and '.join(names)}" if names else ""


def _order(seed: str) -> tuple[int, str]:
    return (int(seed), "") if seed.isdecimal() and len(seed) < 19 else (10**19, seed)


def all_of(
    variants: Variants, value: Callable[[Result], float], higher_is_better: bool
) -> list[Finding]:
    """Every question that the recorded variants can answer, each with its verdict."""
    found = [
        *_alone(variants, value),
        *_on_top(variants, value),
        *_factorial(variants, value),
    ]
    judged: list[Finding] = []
    for question in dict.fromkeys(finding.question for finding in found):
        family = [finding for finding in found if finding.question == question]
        judged += _judge(family, higher_is_better)
    return judged


def _alone(variants: Variants, value: Callable[[Result], float]) -> Iterator[Finding]:
    base = variants.by_levels.get(variants.baseline)
    for index, factor in enumerate(variants.factors):
        for level in factor.tricks:
            with_it = variants.replaced(variants.baseline, index, level)
            if base and with_it:
                yield _finding(level, "alone", with_it, base, value)


def _on_top(variants: Variants, value: Callable[[Result], float]) -> Iterator[Finding]:
    """Against the full set, if one was run: the one variant with something of every factor."""
    full = [
        variant
        for levels, variant in variants.by_levels.items()
        if all(a != b for a, b in zip(levels, variants.baseline, strict=True))
    ]
    if len(variants.factors) < 2 or len(full) != 1:
        return
    for index, factor in enumerate(variants.factors):
        without = variants.replaced(full[0].levels, index, factor.levels[0])
        if without:
            level = full[0].levels[index]
            yield _finding(level, "on top of the others", full[0], without, value)


def _finding(
    trick: str,
    question: Question,
    with_it: Variant,
    without: Variant,
    value: Callable[[Result], float],
) -> Finding:
    seeds, refused = pair(with_it.runs, without.runs)
    pairs = [(with_it.runs[seed], without.runs[seed]) for seed in seeds]
    return replace(
        _about(trick, list(with_it.runs.values())),
        question=question,
        seeds=seeds,
        differences=[value(one) - value(other) for one, other in pairs],
        unpaired=refused,
        slower=_slower(pairs),
    )


def _about(trick: str, runs: Sequence[Result]) -> Finding:
    """What the runs with a trick say of it by themselves."""
    group = trick.partition("=")[0].partition(".")[0]
    idle = sum(any(said.partition("=")[0] == group for said in run.no_effect) for run in runs)
    clips = [run for run in runs if group == "clip" and run.settings.get("clip") != "none"]
    bites = [run.last["clip/hit_rate"] for run in clips if "clip/hit_rate" in run.last]
    share = math.fsum(bites) / len(bites) if bites else None
    return Finding(trick, "alone", idle=idle, runs=len(runs), bites=share)


def _slower(pairs: Sequence[tuple[Result, Result]]) -> Interval | None:
    logs = [
        math.log(one.epoch_s / other.epoch_s)
        for one, other in pairs
        if one.epoch_s and other.epoch_s
    ]
    if not logs:
        return None
    found = statistics.interval(logs)
    mean, low, high = (math.exp(value) for value in (found.mean, found.low, found.high))
    return replace(found, mean=mean, low=low, high=high)


def _factorial(variants: Variants, value: Callable[[Result], float]) -> Iterator[Finding]:
    """Main effects and two-way interactions, if every combination of two levels each was run."""
    factors = variants.factors
    names = [factor.levels[-1] for factor in factors]
    count = len(variants.by_levels)
    two_each = all(len(factor.levels) == 2 for factor in factors)
    if not (2 <= len(factors) <= LARGEST_FACTORIAL and two_each and count == 2 ** len(factors)):
        return
    runs = {
        frozenset(level for level in levels if level in names): variant.runs
        for levels, variant in variants.by_levels.items()
    }
    alike, refused = _complete(runs)
    blocks = [{on: value(of[seed]) for on, of in runs.items()} for seed in alike]
    if not blocks:
        return
    for trick, differences in statistics.main_effects(blocks, names).items():
        having = [of[seed] for on, of in runs.items() if trick in on for seed in alike]
        pairs = [
            (of[seed], runs[on - {trick}][seed])
            for on, of in runs.items() if trick in on for seed in alike
        ]  # fmt: skip
        yield replace(
            _about(trick, having), question="on average", seeds=alike, differences=differences,
            unpaired=refused, slower=_slower(pairs),
        )  # fmt: skip
    for (one, other), differences in statistics.interactions(blocks, names).items():
        yield Finding(
            f"{one} with {other}", "together", alike, differences, refused, runs=len(alike)
        )


def _complete(
    runs: Mapping[frozenset[str], Mapping[str, Result]],
) -> tuple[list[str], dict[str, list[str]]]:
    """The seeds of which all variants were run and started alike."""
    base = runs[frozenset()]
    alike = set(base)
    refused: dict[str, list[str]] = defaultdict(list)
    for of in runs.values():
        seeds, reasons = pair(of, base)
        alike &= set(seeds)
        for reason, left_out in reasons.items():
            refused[reason] += [seed for seed in left_out if seed not in refused[reason]]
    return sorted(alike, key=_order), dict(refused)


def _judge(family: Sequence[Finding], higher_is_better: bool) -> Iterator[Finding]:
    """Corrects over the tricks that a question was asked of; those that did nothing in any run
    are no part of it, as they were not tried."""
    tried = [each for each in family if each.differences and not _did_nothing(each)]
    corrected = statistics.holm([statistics.sign_flip(each.differences) for each in tried])
    p_values = {id(each): p for each, p in zip(tried, corrected, strict=True)}
    for each in family:
        interval = statistics.interval(each.differences) if each.differences else None
        least = statistics.least_seeds(max(1, len(tried)), LEVEL)
        found = replace(
            each, interval=interval, p=p_values.get(id(each)), tests=len(tried), least=least
        )
        yield replace(found, verdict=_verdict(found, higher_is_better))


def _did_nothing(finding: Finding) -> bool:
    return bool(finding.runs) and finding.idle == finding.runs


def _verdict(finding: Finding, higher_is_better: bool) -> Verdict:
    if _did_nothing(finding):
        return "no effect"
    if finding.interval is None or finding.p is None:
        return "unpaired"
    if len(finding.differences) < finding.least:
        return "too few"
    if finding.p > LEVEL:
        return "open"
    return "helps" if (finding.interval.mean > 0) == higher_is_better else "hurts"
