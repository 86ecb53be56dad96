"""What was found, in sentences that can be quoted by themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator

from recipe.compare.finding import LEVEL, Finding, Verdict
from recipe.compare.metric_unit import Unit
from recipe.compare.report.markup import code
from recipe.evidence import statistics
from recipe.evidence.statistics import Interval
from recipe.formatting import counted, listed

MOST_SEEDS = 1000
"""More of them than that aren't advised."""

FEWEST = 3
"""Pairs that tell anything of how much differences vary."""

WIDEST = 100
"""The upper bound of an interval of ratios of time over the lower one: a wider one says nothing."""

LARGE_RATIO = 10
"""A ratio of times from which on, or below whose inverse, it is printed as a ratio, not in %."""


IN_SHORT: dict[Verdict, str] = {
    "helps": "shown to help",
    "hurts": "shown to hurt",
    "up": "shown to raise it",
    "down": "shown to lower it",
    "open": "not shown either way",
    "too few": "too few seeds for a verdict",
    "no effect": "did nothing",
    "unpaired": "not comparable",
}


def sentence(finding: Finding, unit: Unit, baseline: float) -> str:
    """The change, how sure it is, what that means, and what the trick did and cost."""
    if finding.interval is None:
        return f"{_subject(finding)} could not be compared: {_why_unpaired(finding)}."
    if finding.verdict == "no effect":
        return _did_nothing(finding, unit)
    extra = "; ".join([verdict(finding, unit), *_said_of_it(finding, unit)])
    parts = [f"{_subject(finding)} {_changed(finding, unit)}: {extra}."]
    parts += _at_odds(finding)
    if more := _more(finding, unit, baseline):
        parts.append(more)
    if finding.idle:
        of = counted(finding.runs, "run")
        it = code(finding.whose) if finding.whose else "It"
        parts.append(f"{it} had no effect in {finding.idle} of its {of}, as the audit saw.")
    if finding.unpaired:
        parts.append(f"Not paired: {_why_unpaired(finding)}.")
    return " ".join(parts)


def _did_nothing(finding: Finding, unit: Unit) -> str:
    assert finding.interval is not None
    change = finding.interval.mean
    moved = "exactly 0" if change == 0 else f"{unit.change(change)}{unit.points}"
    of = f"any of its {finding.runs} runs" if finding.runs > 1 else "its only run"
    idle = f"did nothing in {of}, as the audit saw"
    if finding.question == "together":
        return f"{_subject(finding)} was {moved}: {code(finding.whose)} {idle}."
    if finding.whose:
        idle = f"stands against {code(finding.whose)}, which {idle}"
    changed = f"{unit.metric} changed by {moved}"
    return f"{_subject(finding)} {idle}: {changed}; this says nothing about its use."


def _at_odds(finding: Finding) -> Iterator[str]:
    """Where interval and test seem to say different things."""
    interval = finding.interval
    assert interval is not None
    leaves_out = interval.low > 0 or interval.high < 0
    if finding.verdict in ("helps", "hurts", "up", "down") and not leaves_out:
        yield "The interval holds 0 all the same, as a few large changes widen it."
    elif finding.verdict == "open" and leaves_out and interval.sd > 0:
        if finding.raw_p is not None and finding.raw_p <= LEVEL:
            yield (
                "The interval leaves out 0 all the same, as it is of this one alone, of which p "
                f"is {shown_p(finding.raw_p)} before Holm."
            )
        else:
            yield (
                "The interval leaves out 0 all the same, as it takes the changes for normal, which "
                "the test doesn't."
            )


def verdict(finding: Finding, unit: Unit) -> str:
    """In words; the tables have it, too."""
    together = finding.question == "together"
    words = {
        "helps": "shown to help",
        "hurts": "shown to hurt",
        "up": "together above the sum of the two" if together else "shown to raise it",
        "down": "together below the sum of the two" if together else "shown to lower it",
        "no effect": "did nothing",
        "unpaired": "not comparable",
        "too few": f"no verdict, which takes {finding.least} seeds",
    }
    if finding.verdict != "open":
        return words[finding.verdict]
    if together:
        return "not shown to depend on each other"
    if not unit.sign:
        return "not shown to change it"
    assert finding.interval is not None
    return f"not shown to {'help' if finding.interval.mean * unit.sign >= 0 else 'hurt'}"


def shown_p(p: float | None) -> str:
    if p is None:
        return "-"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"


def _subject(finding: Finding) -> str:
    trick = code(finding.trick)
    if finding.question == "together":
        one, _, other = finding.trick.partition(" with ")
        return f"The effect of {code(one)} with {code(other)} on, less that with it off,"
    return {
        "alone": trick,
        "on top of the others": f"On top of all the others, {trick}",
        "on top of what was kept": f"On top of {code(finding.kept)}, {trick}",
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
    return f", p = {shown_p(finding.p)}{over}"


def _said_of_it(finding: Finding, unit: Unit) -> Iterator[str]:
    said = []
    if finding.bites is not None:
        said.append(f"bit on {100 * finding.bites:.0f} % of steps")
    is_time = unit.metric.startswith("time/")  # which the change itself is of
    if finding.slower is not None and finding.question != "together" and not is_time:
        said.append(_cost(finding.slower))
    if said:
        yield f"it {' and '.join(said)}".replace("it its", "its")


def is_known(slower: Interval | None) -> bool:
    """Whether the pairs tell anything of a cost in time."""
    return bool(slower and slower.n >= FEWEST and slower.high <= WIDEST * slower.low)


def as_ratio(slower: Interval) -> tuple[str, str] | None:
    """A ratio and its interval, `0.0071` and ` (0.0065 to 0.0078)`; None for one better read
    in percent."""
    if 1 / LARGE_RATIO < slower.mean < LARGE_RATIO:
        return None
    mean, low, high = (f"{value:.2g}" for value in (slower.mean, slower.low, slower.high))
    return mean, "" if low == high else f" ({low} to {high})"


def _cost(slower: Interval) -> str:
    """Machines are noisy: a difference is told as one only where its interval leaves out 0."""
    mean, low, high = (100 * (value - 1) for value in (slower.mean, slower.low, slower.high))
    if slower.n < FEWEST:
        return f"its cost in time can't be told from {counted(slower.n, 'pair')}"
    if not is_known(slower):
        return "its cost in time varies too much to be told"
    if ratio := as_ratio(slower):  # whose interval leaves out 1, as it is known
        return f"took {ratio[0]} times as long{ratio[1]}"
    spread = f" ({low:+.0f} to {high:+.0f} %)"
    if all(abs(value) < 0.5 for value in (mean, low, high)):
        return "took as much time"
    if low <= 0 <= high:
        return f"its cost in time is lost in noise{spread}"
    told = f"cost {mean:.0f} % more time" if mean > 0 else f"took {-mean:.0f} % less time"
    return told + ("" if low == high else spread)


def _more(finding: Finding, unit: Unit, baseline: float) -> str:
    """How many more seeds it would take to see a difference that is worth seeing."""
    if finding.interval is None or finding.verdict not in ("open", "too few"):
        return ""
    n, needed = finding.interval.n, seeds_to_see(finding, unit, baseline)
    if finding.verdict == "too few" and n < finding.least:
        return f"{counted(finding.least - n, 'more seed').capitalize()} make a verdict possible."
    if needed is None:
        return ""
    words = unit.worth_seeing(baseline)[1]
    if needed - n > MOST_SEEDS:
        return f"To see {words} would take more than {MOST_SEEDS:,} seeds."
    if needed <= n:
        return f"A difference of {words} would have been seen four times in five."
    more = counted(int(needed) - n, "more seed")
    return f"About {more} would show a difference of {words} four times in five."


def seeds_to_see(finding: Finding, unit: Unit, baseline: float) -> float | None:
    """The pairs it takes in all to see a difference that is worth seeing, infinite if they are too
    many to count; None if that isn't known.

    Two pairs tell next to nothing of how much differences vary, and neither do equal ones.
    """
    interval, (size, _) = finding.interval, unit.worth_seeing(baseline)
    known = interval is not None and interval.n >= FEWEST and interval.sd > 0
    if interval is None or not known or finding.p is None or not 0 < size < math.inf:
        return None
    needed = statistics.seeds_to_see(interval.sd, size, max(1, finding.tests), LEVEL)
    return math.inf if needed is None else needed


def _why_unpaired(finding: Finding) -> str:
    reasons = [f"{reason} (seed {listed(seeds)})" for reason, seeds in finding.unpaired.items()]
    return "; ".join(reasons) or "no runs of a common seed"
