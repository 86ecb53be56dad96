"""What each trick did, pair by pair: differences over seeds, their tests, and a verdict."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from recipe.compare import factorial, pairs
from recipe.compare.finding import LEVEL, Finding, Question, Verdict
from recipe.compare.metric_unit import Unit
from recipe.compare.variants import Levels, Variants
from recipe.config.option_files import OFF
from recipe.evidence import statistics

KEPT: Question = "on top of what was kept"


def all_of(variants: Variants, unit: Unit, path: Sequence[str] = ()) -> list[Finding]:
    """Every question that the recorded variants can answer, each with its verdict.

    `path` are the variants that a greedy plan kept, as it calls them, the first with nothing on.
    """
    found = [
        *_alone(variants, unit),
        *_on_top(variants, unit),
        *_on_what_was_kept(variants, unit, path),
        *factorial.findings(variants, unit),
    ]
    judged: list[Finding] = []
    for question in dict.fromkeys(finding.question for finding in found):
        family = [finding for finding in found if finding.question == question]
        judged += _judge(family, unit)
    return judged


def _alone(variants: Variants, unit: Unit) -> Iterator[Finding]:
    base = variants.by_levels.get(variants.baseline)
    for index, factor in enumerate(variants.factors):
        for level in factor.tricks:
            with_it = variants.replaced(variants.baseline, index, level)
            if base and with_it:
                yield pairs.finding(level, "alone", with_it, base, unit)


def _on_top(variants: Variants, unit: Unit) -> Iterator[Finding]:
    """Against the full set, if one was run: the one variant with every trick on the baseline's
    background."""
    tricks = [index for index, factor in enumerate(variants.factors) if factor.is_trick]
    full = [
        variant
        for levels, variant in variants.by_levels.items()
        if all(levels[index] != variants.baseline[index] for index in tricks)
        and variants.on(variant) == variants.background
    ]
    if len(tricks) < 2 or len(full) != 1:
        return
    for index in tricks:
        factor = variants.factors[index]
        without = variants.replaced(full[0].levels, index, factor.levels[0])
        if without:
            level = full[0].levels[index]
            yield pairs.finding(level, "on top of the others", full[0], without, unit)


def _on_what_was_kept(
    variants: Variants, unit: Unit, path: Sequence[str]
) -> Iterator[Finding]:  # fmt: skip
    """Of a greedy plan's rounds but the first, which is `alone`: each trick beside what was kept
    so far."""
    for name in path[1:]:
        kept = _levels(variants, name)
        before = variants.by_levels.get(kept) if kept else None
        if kept is None or before is None:
            continue
        for index, factor in enumerate(variants.factors):
            for level in factor.levels if _is_off(kept[index], factor.name) else ():
                with_it = variants.replaced(kept, index, level)
                if with_it and level != kept[index]:
                    yield pairs.finding(level, KEPT, with_it, before, unit, name)


def _levels(variants: Variants, name: str) -> Levels | None:
    """Those of the variant that an ablation calls so; None if there is none."""
    on, found = set(name.split(" ")), []
    for factor in variants.factors:
        fitting = [level for level in factor.levels if level.split(" ")[0] in on]
        off = [level for level in factor.levels if _is_off(level, factor.name)]
        if not (fitting or off):
            return None
        found.append((fitting or off)[0])
    return tuple(found)


def _is_off(level: str, group: str) -> bool:
    return level.split(" ")[0] == f"{group}={OFF.get(group)}"


def _judge(family: Sequence[Finding], unit: Unit) -> Iterator[Finding]:
    """Corrects over the tricks that a question was asked of; those that did nothing in any run
    are no part of it, as they were not tried."""
    tried = [each for each in family if each.differences and not each.did_nothing]
    raw = [statistics.sign_flip(each.differences) for each in tried]
    p_values = {
        id(each): both for each, *both in zip(tried, raw, statistics.holm(raw), strict=True)
    }
    least = statistics.least_seeds(max(1, len(tried)), LEVEL)
    enough = {
        id(each)
        for place, each in enumerate(tried)
        if (n := len(each.differences)) >= least or statistics.can_reach(raw, place, n, LEVEL)
    }
    for each in family:
        interval = None
        if each.differences:
            interval = unit.possible(statistics.interval(each.differences), least=-1.0)
        raw_p, p = p_values.get(id(each), (None, None))
        found = replace(
            each, interval=interval, raw_p=raw_p, p=p, tests=len(tried), least=least
        )  # fmt: skip
        yield replace(found, verdict=_verdict(found, unit, id(each) in enough))


def _verdict(finding: Finding, unit: Unit, enough: bool) -> Verdict:
    if finding.did_nothing and finding.differences:
        return "no effect"
    if finding.interval is None or finding.p is None:
        return "unpaired"
    if not enough:
        return "too few"
    if finding.p > LEVEL:
        return "open"
    sign = unit.sign if finding.question != "together" else 0
    if not sign:
        return "up" if finding.interval.mean > 0 else "down"
    return "helps" if finding.interval.mean * sign > 0 else "hurts"
