"""What was found, in sentences that can be quoted by themselves."""

from __future__ import annotations

import math
from collections.abc import Iterator

from recipe.compare.finding import SIGNIFICANCE_LEVEL, Finding, Verdict
from recipe.compare.metric_unit import MetricUnit
from recipe.evidence.intervals import ConfidenceInterval
from recipe.evidence.power import required_seeds
from recipe.formatting import escape_unprintable, format_list, pluralize

MAX_ADVISED_SEEDS = 1000
"""More of them than that aren't advised."""

MIN_PAIRS = 3
"""Pairs that tell anything of how much differences vary."""

MAX_INTERVAL_RATIO = 100
"""The upper bound of an interval of ratios of time over the lower one: a wider one says nothing."""

LARGE_RATIO = 10
"""A ratio of times from which on, or below whose inverse, it is printed as a ratio, not in %."""


VERDICT_LABELS: dict[Verdict, str] = {
    "helps": "shown to help",
    "hurts": "shown to hurt",
    "up": "shown to raise it",
    "down": "shown to lower it",
    "open": "not shown either way",
    "too few": "too few seeds for a verdict",
    "no effect": "did nothing",
    "unpaired": "not comparable",
}


def format_code(name: object) -> str:
    """A name as code in a paragraph; a backtick in it becomes an apostrophe."""
    return f"`{escape_unprintable(str(name)).replace('`', chr(39)) or ' '}`"


def describe_finding(finding: Finding, unit: MetricUnit, baseline: float) -> str:
    """The change, how sure it is, what that means, and what the trick did and cost."""
    if finding.interval is None:
        return (
            f"{_format_subject(finding)} could not be compared: "
            f"{_describe_unpaired_seeds(finding)}."
        )
    if finding.verdict == "no effect":
        return _describe_no_effect(finding, unit)
    extra = "; ".join(
        [describe_verdict(finding, unit), *_describe_cost_and_clipping(finding, unit)]
    )
    parts = [f"{_format_subject(finding)} {_format_change(finding, unit)}: {extra}."]
    parts += _explain_interval_conflict(finding)
    if more := _describe_needed_seeds(finding, unit, baseline):
        parts.append(more)
    if finding.num_no_effect_runs:
        of = pluralize(finding.num_runs, "run")
        it = format_code(finding.audited_trick) if finding.audited_trick else "It"
        parts.append(
            f"{it} had no effect in {finding.num_no_effect_runs} of its {of}, as the audit saw."
        )
    if finding.unpaired_seeds:
        parts.append(f"Not paired: {_describe_unpaired_seeds(finding)}.")
    return " ".join(parts)


def _describe_no_effect(finding: Finding, unit: MetricUnit) -> str:
    assert finding.interval is not None
    change = finding.interval.mean
    moved = "exactly 0" if change == 0 else f"{unit.format_change(change)}{unit.points_suffix}"
    of = f"any of its {finding.num_runs} runs" if finding.num_runs > 1 else "its only run"
    idle = f"did nothing in {of}, as the audit saw"
    if finding.contrast == "together":
        return (
            f"{_format_subject(finding)} was {moved}: {format_code(finding.audited_trick)} {idle}."
        )
    if finding.audited_trick:
        idle = f"contradicts {format_code(finding.audited_trick)}, which {idle}"
    changed = f"{unit.metric} changed by {moved}"
    return f"{_format_subject(finding)} {idle}: {changed}; this is no evidence about its effect."


def _explain_interval_conflict(finding: Finding) -> Iterator[str]:
    """Where interval and test seem to say different things."""
    interval = finding.interval
    assert interval is not None
    leaves_out = interval.low > 0 or interval.high < 0
    if finding.verdict in ("helps", "hurts", "up", "down") and not leaves_out:
        yield "The interval holds 0 all the same, as a few large changes widen it."
    elif finding.verdict == "open" and leaves_out and interval.sd > 0:
        if finding.raw_p_value is not None and finding.raw_p_value <= SIGNIFICANCE_LEVEL:
            yield (
                "The interval leaves out 0 all the same, as it is of this one alone, of which p "
                f"is {format_p_value(finding.raw_p_value)} before Holm."
            )
        else:
            yield (
                "The interval leaves out 0 all the same, as it takes the changes for normal, which "
                "the test doesn't."
            )


def describe_verdict(finding: Finding, unit: MetricUnit) -> str:
    """In words; the tables have it, too."""
    together = finding.contrast == "together"
    words = {
        "helps": "shown to help",
        "hurts": "shown to hurt",
        "up": "together above the sum of the two" if together else "shown to raise it",
        "down": "together below the sum of the two" if together else "shown to lower it",
        "no effect": "did nothing",
        "unpaired": "not comparable",
        "too few": f"no verdict, which takes {finding.min_seeds} seeds",
    }
    if finding.verdict != "open":
        return words[finding.verdict]
    if together:
        return "not shown to depend on each other"
    if not unit.direction:
        return "not shown to change it"
    assert finding.interval is not None
    return f"not shown to {'help' if finding.interval.mean * unit.direction >= 0 else 'hurt'}"


def format_p_value(p: float | None) -> str:
    if p is None:
        return "-"
    return f"{p:.3f}" if p >= 0.001 else f"{p:.1g}"


def _format_subject(finding: Finding) -> str:
    trick = format_code(finding.trick)
    if finding.contrast == "together":
        one, _, other = finding.trick.partition(" with ")
        return (
            f"The effect of {format_code(one)} with {format_code(other)} on, less that with it off,"
        )
    return {
        "alone": trick,
        "on top of the others": f"On top of all the others, {trick}",
        "on top of what was kept": f"On top of {format_code(finding.kept_tricks)}, {trick}",
        "on average": f"On average over the other tricks, {trick}",
    }[finding.contrast]


def _format_change(finding: Finding, unit: MetricUnit) -> str:
    interval = finding.interval
    assert interval is not None
    change = f"{unit.format_change(interval.mean)}{unit.points_suffix}"
    seeds = pluralize(interval.n, "paired seed")
    verb = "was" if finding.contrast == "together" else f"changed {unit.metric} by"
    if interval.n == 1:
        return f"{verb} {change} ({seeds}, of which no interval can be known)"
    span = (
        f"95 % interval {unit.format_change(interval.low)} to {unit.format_change(interval.high)}"
    )
    if interval.sd == 0:
        span = "the same in every pair"
    return f"{verb} {change} ({span}, {seeds}{_format_p_clause(finding)})"


def _format_p_clause(finding: Finding) -> str:
    if finding.corrected_p_value is None or finding.verdict == "too few":
        return ""
    over = f" after Holm over {finding.num_tests}" if finding.num_tests > 1 else ""
    return f", p = {format_p_value(finding.corrected_p_value)}{over}"


def _describe_cost_and_clipping(finding: Finding, unit: MetricUnit) -> Iterator[str]:
    message = []
    if finding.clipped_fraction is not None:
        message.append(f"clipped {100 * finding.clipped_fraction:.0f} % of steps")
    is_time = unit.metric.startswith("time/")  # which the change itself is of
    if finding.time_ratio is not None and finding.contrast != "together" and not is_time:
        message.append(_describe_time_cost(finding.time_ratio))
    if message:
        yield f"it {' and '.join(message)}".replace("it its", "its")


def is_time_ratio_known(time_ratio: ConfidenceInterval | None) -> bool:
    """Whether the pairs tell anything of a cost in time."""
    return bool(
        time_ratio
        and time_ratio.n >= MIN_PAIRS
        and time_ratio.high <= MAX_INTERVAL_RATIO * time_ratio.low
    )


def format_large_ratio(time_ratio: ConfidenceInterval) -> tuple[str, str] | None:
    """A ratio and its interval, `0.0071` and ` (0.0065 to 0.0078)`; None for one better read
    in percent."""
    if 1 / LARGE_RATIO < time_ratio.mean < LARGE_RATIO:
        return None
    mean, low, high = (
        f"{value:.2g}" for value in (time_ratio.mean, time_ratio.low, time_ratio.high)
    )
    return mean, "" if low == high else f" ({low} to {high})"


def _describe_time_cost(slower: ConfidenceInterval) -> str:
    """Machines are noisy: a difference is told as one only where its interval leaves out 0."""
    mean, low, high = (100 * (value - 1) for value in (slower.mean, slower.low, slower.high))
    if slower.n < MIN_PAIRS:
        return f"its cost in time can't be estimated from {pluralize(slower.n, 'pair')}"
    if not is_time_ratio_known(slower):
        return "its cost in time varies too much to be estimated"
    if ratio := format_large_ratio(slower):  # whose interval leaves out 1, as it is known
        return f"took {ratio[0]} times as long{ratio[1]}"
    spread = f" ({low:+.0f} to {high:+.0f} %)"
    if all(abs(value) < 0.5 for value in (mean, low, high)):
        return "took as much time"
    if low <= 0 <= high:
        return f"its cost in time is lost in noise{spread}"
    message = f"cost {mean:.0f} % more time" if mean > 0 else f"took {-mean:.0f} % less time"
    return message + ("" if low == high else spread)


def _describe_needed_seeds(finding: Finding, unit: MetricUnit, baseline: float) -> str:
    """How many more seeds it would take to see a difference that is worth seeing."""
    if finding.interval is None or finding.verdict not in ("open", "too few"):
        return ""
    n, needed = finding.interval.n, estimate_needed_seeds(finding, unit, baseline)
    if finding.verdict == "too few" and n < finding.min_seeds:
        return (
            f"{pluralize(finding.min_seeds - n, 'more seed').capitalize()} make a verdict possible."
        )
    if needed is None:
        return ""
    words = unit.get_relevant_difference(baseline)[1]
    if needed - n > MAX_ADVISED_SEEDS:
        return f"To see {words} would take more than {MAX_ADVISED_SEEDS:,} seeds."
    if needed <= n:
        return f"A difference of {words} would have been seen four times in five."
    more = pluralize(int(needed) - n, "more seed")
    return f"About {more} would show a difference of {words} four times in five."


def estimate_needed_seeds(finding: Finding, unit: MetricUnit, baseline: float) -> float | None:
    """The pairs it takes in all to see a difference that is worth seeing, infinite if they are too
    many to count; None if that isn't known.

    Two pairs tell next to nothing of how much differences vary, and neither do equal ones.
    """
    interval, (size, _) = finding.interval, unit.get_relevant_difference(baseline)
    known = interval is not None and interval.n >= MIN_PAIRS and interval.sd > 0
    if (
        interval is None
        or not known
        or finding.corrected_p_value is None
        or not 0 < size < math.inf
    ):
        return None
    needed = required_seeds(interval.sd, size, max(1, finding.num_tests), SIGNIFICANCE_LEVEL)
    return math.inf if needed is None else needed


def _describe_unpaired_seeds(finding: Finding) -> str:
    reasons = [
        f"{reason} (seed {format_list(seeds)})" for reason, seeds in finding.unpaired_seeds.items()
    ]
    return "; ".join(reasons) or "no runs of a common seed"
