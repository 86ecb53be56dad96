"""Findings as sentences."""

from __future__ import annotations

import math
from collections.abc import Iterator

from recipe.compare.finding import SIGNIFICANCE_LEVEL, Finding, Verdict
from recipe.compare.metric_unit import MetricUnit
from recipe.evidence.intervals import ConfidenceInterval
from recipe.evidence.power import required_seeds
from recipe.formatting import escape_unprintable, format_list, pluralize

MAX_ADVISED_SEEDS = 1000

MIN_PAIRS_FOR_VARIANCE = 3

MAX_TIME_INTERVAL_RATIO = 100  # of its upper to its lower bound

LARGE_TIME_RATIO = 10  # from here on, and below its inverse, printed as a ratio instead of in %

VERDICT_LABELS: dict[Verdict, str] = {
    "helps": "shown to help",
    "hurts": "shown to hurt",
    "up": "shown to raise it",
    "down": "shown to lower it",
    "open": "inconclusive",
    "too few": "too few seeds for a verdict",
    "no effect": "no effect",
    "unpaired": "not comparable",
}


def format_code(name: object) -> str:
    """A name as code in a paragraph; backticks in it become apostrophes."""
    return f"`{escape_unprintable(str(name)).replace('`', chr(39)) or ' '}`"


def describe_finding(finding: Finding, unit: MetricUnit, baseline: float) -> str:
    """The change with its uncertainty, the verdict, the cost, and what the audit found."""
    if finding.interval is None:
        return (
            f"{_format_subject(finding)} could not be compared: "
            f"{_describe_unpaired_seeds(finding)}."
        )
    if finding.verdict == "no effect":
        return _describe_no_effect(finding, unit)
    verdict = [describe_verdict(finding, unit), *_describe_cost_and_clipping(finding, unit)]
    parts = [f"{_format_subject(finding)} {_format_change(finding, unit)}: {'; '.join(verdict)}."]
    parts += _explain_interval_conflict(finding)
    parts += _describe_needed_seeds(finding, unit, baseline)
    if finding.num_no_effect_runs:
        of = pluralize(finding.num_runs, "run")
        it = format_code(finding.audited_trick) if finding.audited_trick else "it"
        parts.append(
            f"According to the audit, {it} had no effect in {finding.num_no_effect_runs} of {of}."
        )
    if finding.unpaired_seeds:
        parts.append(f"Not paired: {_describe_unpaired_seeds(finding)}.")
    return " ".join(parts)


def _describe_no_effect(finding: Finding, unit: MetricUnit) -> str:
    assert finding.interval is not None
    change = finding.interval.mean
    size = "exactly 0" if change == 0 else f"{unit.format_change(change)}{unit.points_suffix}"
    runs = f"any of its {finding.num_runs} runs" if finding.num_runs > 1 else "its only run"
    no_effect = f"had no effect in {runs} according to the audit"
    subject, audited = _format_subject(finding), format_code(finding.audited_trick)
    if finding.contrast == "together":
        return f"{subject} was {size}: {audited} {no_effect}."
    if finding.audited_trick:
        no_effect = f"turns off {audited}, which {no_effect}"
    changed = f"{unit.metric} changed by {size}"
    return f"{subject} {no_effect}: {changed}, which is no evidence about its effect."


def _explain_interval_conflict(finding: Finding) -> Iterator[str]:
    """Explains why interval and test seem to contradict each other, if they do."""
    interval = finding.interval
    assert interval is not None
    excludes_zero = interval.low > 0 or interval.high < 0
    if finding.verdict in ("helps", "hurts", "up", "down") and not excludes_zero:
        yield "The interval contains 0 nevertheless, as a few large changes widen it."
    elif finding.verdict == "open" and excludes_zero and interval.sd > 0:
        reason = "it assumes normally distributed changes, which the test doesn't"
        if finding.raw_p_value is not None and finding.raw_p_value <= SIGNIFICANCE_LEVEL:
            p = format_p_value(finding.raw_p_value)
            reason = f"it isn't corrected for the other tests; before Holm's correction, p = {p}"
        yield f"The interval excludes 0 nevertheless, as {reason}."


def describe_verdict(finding: Finding, unit: MetricUnit) -> str:
    """The verdict in words, also for the tables."""
    together = finding.contrast == "together"
    if together and finding.verdict in ("up", "down"):
        return f"together {'above' if finding.verdict == 'up' else 'below'} the sum of both"
    if finding.verdict == "too few":
        return f"no verdict, which needs {finding.min_seeds} seeds"
    if finding.verdict != "open":
        return VERDICT_LABELS[finding.verdict]
    if together:
        return "no interaction shown"
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
        return f"The effect of {format_code(one)} with {format_code(other)} minus that without it"
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
        return f"{verb} {change} ({seeds}, too few for an interval)"
    span = (
        f"95 % interval {unit.format_change(interval.low)} to {unit.format_change(interval.high)}"
    )
    if interval.sd == 0:
        span = "the same in every pair"
    return f"{verb} {change} ({span}, {seeds}{_format_p_clause(finding)})"


def _format_p_clause(finding: Finding) -> str:
    if finding.corrected_p_value is None or finding.verdict == "too few":
        return ""
    over = f", corrected for {finding.num_tests} tests" if finding.num_tests > 1 else ""
    return f", p = {format_p_value(finding.corrected_p_value)}{over}"


def _describe_cost_and_clipping(finding: Finding, unit: MetricUnit) -> Iterator[str]:
    parts = []
    if finding.clipped_fraction is not None:
        parts.append(f"it clipped {100 * finding.clipped_fraction:.0f} % of steps")
    is_time = unit.metric.startswith("time/")
    if finding.time_ratio is not None and finding.contrast != "together" and not is_time:
        cost = _describe_time_cost(finding.time_ratio)
        parts.append(cost.removeprefix("it ") if parts else cost)
    if parts:
        yield " and ".join(parts)


def is_time_ratio_known(time_ratio: ConfidenceInterval | None) -> bool:
    """Whether the pairs suffice for an estimate."""
    return bool(
        time_ratio
        and time_ratio.n >= MIN_PAIRS_FOR_VARIANCE
        and time_ratio.high <= MAX_TIME_INTERVAL_RATIO * time_ratio.low
    )


def format_large_ratio(time_ratio: ConfidenceInterval) -> tuple[str, str] | None:
    """`0.0071` and ` (0.0065 to 0.0078)`; None for a ratio to be printed in percent."""
    if 1 / LARGE_TIME_RATIO < time_ratio.mean < LARGE_TIME_RATIO:
        return None
    mean, low, high = (
        f"{value:.2g}" for value in (time_ratio.mean, time_ratio.low, time_ratio.high)
    )
    return mean, "" if low == high else f" ({low} to {high})"


def _describe_time_cost(ratio: ConfidenceInterval) -> str:
    mean, low, high = (100 * (value - 1) for value in (ratio.mean, ratio.low, ratio.high))
    if ratio.n < MIN_PAIRS_FOR_VARIANCE:
        return f"its cost in time can't be estimated from {pluralize(ratio.n, 'pair')}"
    if not is_time_ratio_known(ratio):
        return "its cost in time varies too much to be estimated"
    if large := format_large_ratio(ratio):
        return f"it took {large[0]} times as long{large[1]}"
    if all(abs(value) < 0.5 for value in (mean, low, high)):
        return "it took the same time"
    spread = f" ({low:+.0f} to {high:+.0f} %)"
    if low <= 0 <= high:
        return f"its cost in time is within noise{spread}"
    cost = f"it cost {mean:.0f} % more time" if mean > 0 else f"it took {-mean:.0f} % less time"
    return cost + ("" if low == high else spread)


def _describe_needed_seeds(finding: Finding, unit: MetricUnit, baseline: float) -> Iterator[str]:
    if finding.interval is None or finding.verdict not in ("open", "too few"):
        return
    n, needed = finding.interval.n, estimate_needed_seeds(finding, unit, baseline)
    if finding.verdict == "too few" and n < finding.min_seeds:
        yield f"A verdict needs {pluralize(finding.min_seeds - n, 'more seed')}."
    elif needed is not None:
        difference = f"a difference of {unit.get_relevant_difference(baseline)[1]}"
        if needed - n > MAX_ADVISED_SEEDS:
            yield f"Detecting {difference} needs more than {MAX_ADVISED_SEEDS:,} seeds."
        elif needed <= n:
            yield f"With 80 % power, {difference} would have been detected."
        else:
            more = pluralize(int(needed) - n, "more seed")
            yield f"Detecting {difference} with 80 % power needs about {more}."


def estimate_needed_seeds(finding: Finding, unit: MetricUnit, baseline: float) -> float | None:
    """The total number of pairs needed to detect a relevant difference, infinite if there are too
    many; None if the variance of the differences is unknown."""
    interval, size = finding.interval, unit.get_relevant_difference(baseline)[0]
    if (
        interval is None
        or interval.n < MIN_PAIRS_FOR_VARIANCE
        or not interval.sd > 0
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
    return "; ".join(reasons) or "no runs with a common seed"
