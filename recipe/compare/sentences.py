"""What was found, in sentences that can be quoted by themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator

from recipe.compare import statistics
from recipe.compare.findings import LEVEL, Finding
from recipe.compare.markup import code
from recipe.compare.statistics import Interval
from recipe.compare.units import Unit
from recipe.wording import counted, listed

MOST_SEEDS = 1000
"""More of them than that aren't advised."""


def sentence(finding: Finding, unit: Unit, baseline: float) -> str:
    """The change, how sure it is, what that means, and what the trick did and cost."""
    if finding.interval is None:
        return f"{_subject(finding)} could not be compared: {_why_unpaired(finding)}."
    if finding.verdict == "no effect":
        change = finding.interval.mean
        moved = "exactly 0" if change == 0 else f"{unit.change(change)}{unit.points}"
        return (
            f"{_subject(finding)} did nothing in any of its {counted(finding.runs, 'run')}, as the "
            f"audit saw: {unit.metric} changed by {moved}; this says nothing about its use."
        )
    extra = "; ".join([verdict(finding, unit), *_said_of_it(finding)])
    parts = [f"{_subject(finding)} {_changed(finding, unit)}: {extra}."]
    interval = finding.interval
    if finding.verdict in ("helps", "hurts") and interval.low <= 0 <= interval.high:
        parts.append("The interval holds 0 all the same, as a few large changes widen it.")
    if more := _more(finding, unit, baseline):
        parts.append(more)
    if finding.idle:
        of = counted(finding.runs, "run")
        parts.append(f"It had no effect in {finding.idle} of its {of}, as the audit saw.")
    if finding.unpaired:
        parts.append(f"Not paired: {_why_unpaired(finding)}.")
    return " ".join(parts)


def verdict(finding: Finding, unit: Unit) -> str:
    """In words; the tables have it, too."""
    if finding.verdict == "helps":
        return "larger together" if finding.question == "together" else "shown to help"
    if finding.verdict == "hurts":
        return "smaller together" if finding.question == "together" else "shown to hurt"
    if finding.verdict == "no effect":
        return "did nothing"
    if finding.verdict == "unpaired":
        return "not comparable"
    if finding.verdict == "too few":
        return f"no verdict, which takes {finding.least} seeds"
    if finding.question == "together":
        return "not shown to depend on each other"
    assert finding.interval is not None
    good = (finding.interval.mean >= 0) == unit.higher_is_better
    return f"not shown to {'help' if good or finding.interval.mean == 0 else 'hurt'}"


def p_value(finding: Finding) -> str:
    if finding.p is None:
        return "-"
    return f"{finding.p:.3f}" if finding.p >= 0.001 else f"{finding.p:.1g}"


def _subject(finding: Finding) -> str:
    trick = code(finding.trick)
    if finding.question == "together":
        one, _, other = finding.trick.partition(" with ")
        return f"The effect of {code(one)} with {code(other)} on, less that with it off,"
    return {
        "alone": trick,
        "on top of the others": f"On top of all the others, {trick}",
        "on average": f"On average over the other tricks, {trick}",
    }[finding.question]


def _changed(finding: Finding, unit: Unit) -> str:
    interval = finding.interval
    assert interval is not None
    change = f"{unit.change(interval.mean)}{unit.points}"
    seeds = counted(interval.n, "paired seed")
    verb = "was" if finding.question == "together" else f"changed {unit.metric} by"
    if interval.n == 1:
        return f"{verb} {change} ({seeds}, of which no interval can be known)"
    span = f"95 % interval {unit.change(interval.low)} to {unit.change(interval.high)}"
    if interval.sd == 0:
        span = "the same in every pair"
    return f"{verb} {change} ({span}, {seeds}{_p(finding)})"


def _p(finding: Finding) -> str:
    if finding.p is None or finding.verdict == "too few":
        return ""
    over = f" after Holm over {finding.tests}" if finding.tests > 1 else ""
    return f", p = {p_value(finding)}{over}"


def _said_of_it(finding: Finding) -> Iterator[str]:
    said = []
    if finding.bites is not None:
        said.append(f"bit on {100 * finding.bites:.0f} % of steps")
    if finding.slower is not None and finding.question != "together":
        said.append(_cost(finding.slower))
    if said:
        yield f"it {' and '.join(said)}".replace("it its", "its")


def _cost(slower: Interval) -> str:
    """Machines are noisy: a difference is told as one only where its interval leaves out 0."""
    mean, low, high = (100 * (value - 1) for value in (slower.mean, slower.low, slower.high))
    if low <= 0 <= high:
        return f"its cost in time is lost in noise ({low:+.0f} to {high:+.0f} %)"
    told = f"cost {mean:.0f} % more time" if mean > 0 else f"took {-mean:.0f} % less time"
    spread = "" if math.isnan(low) or low == high else f" ({low:+.0f} to {high:+.0f} %)"
    return told + spread


def _more(finding: Finding, unit: Unit, baseline: float) -> str:
    """How many more seeds it would take to see a difference that is worth seeing."""
    interval = finding.interval
    if interval is None or finding.verdict not in ("open", "too few"):
        return ""
    size, words = unit.worth_seeing(baseline)
    if math.isnan(interval.sd) or not math.isfinite(size) or size == 0:
        return ""
    needed = statistics.seeds_to_see(interval.sd, size, max(1, finding.tests), LEVEL)
    if needed is None or needed - interval.n > MOST_SEEDS:
        return f"To see {words} would take more than {MOST_SEEDS:,} seeds."
    if needed <= interval.n:
        return f"A difference of {words} would have been seen four times in five."
    more = counted(needed - interval.n, "more seed")
    return f"About {more} would show a difference of {words} four times in five."


def _why_unpaired(finding: Finding) -> str:
    reasons = [f"{reason} (seed {listed(seeds)})" for reason, seeds in finding.unpaired.items()]
    return "; ".join(reasons) or "no runs of a common seed"
