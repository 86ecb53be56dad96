"""Whether the numbers of two recorded runs agree, and what may explain a difference."""

from __future__ import annotations

import filecmp
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recipe.compare.run_differences import find_causes
from recipe.errors import SpecError
from recipe.formatting import format_list, pluralize
from recipe.store.journal import NONDETERMINISTIC_PREFIXES, MetricHistory
from recipe.store.run_record import RunRecord

TOLERANCE = 1e-6

# differences of smaller values are relative to this fraction of the metric's largest value, as
# their rounding errors come from larger intermediate values
NEAR_ZERO_FRACTION = 1e-3


@dataclass(frozen=True)
class MetricDifference:
    """The difference of one metric at one step; a value is None if its run has no such point."""

    metric: str
    step: int
    first_value: float | None
    second_value: float | None
    relative_difference: float
    """Infinite if one value is missing or not finite."""


@dataclass(frozen=True)
class Agreement:
    verdict: Literal["bit-identical", "equal within 1e-6", "differs"]
    num_common_points: int
    num_common_metrics: int
    largest_difference: MetricDifference | None
    first_differences: Mapping[str, MetricDifference]
    """The first difference above the tolerance, by metric."""
    unmatched_metrics: tuple[tuple[str, ...], tuple[str, ...]]
    """Metrics that only the first run has, and only the second."""
    weight_difference: float | None
    """The largest difference of the best weights, relative to the largest value of its tensor;
    None if they weren't compared."""
    end_description: str | None
    """The end of the compared steps; None: the end of both runs."""
    causes: tuple[str, ...]
    """Other recorded differences, which may explain those of the numbers."""

    @property
    def first_differing_step(self) -> int | None:
        steps = (difference.step for difference in self.first_differences.values())
        return min(steps, default=None)

    @property
    def summary(self) -> str:
        """The agreement in one line."""
        parts = [self._format_verdict()]
        for which, names in zip(("first", "second"), self.unmatched_metrics, strict=True):
            if names:
                parts.append(f"only the {which} has {format_list(names)}")
        if self.end_description:
            parts.append(f"compared {self.end_description}")
        if self.verdict != "bit-identical":
            parts += self.causes or ["no recorded difference explains it"]
        return "; ".join(parts)

    def _format_verdict(self) -> str:
        if not self.num_common_points:
            return "nothing to compare: the runs have no point in common"
        step = self.first_differing_step
        if step is not None:
            candidates = [each for each in self.first_differences.values() if each.step == step]
            worst = max(candidates, key=lambda difference: difference.relative_difference)
            one, other = _format_distinct_values(worst.first_value, worst.second_value)
            return f"differs from step {step} on ({worst.metric} {one} against {other})"
        if self.weight_difference and self.weight_difference > TOLERANCE:
            size = _format_exponent(self.weight_difference)
            return f"differs in the weights, by {size} of the tensor's largest value"
        points = f"{self.num_common_points:,} point{'s' * (self.num_common_points != 1)} of "
        points += pluralize(self.num_common_metrics, "metric")
        points += " and the weights" * (self.weight_difference == 0)
        if self.verdict == "differs":
            return f"differs, but {points} agree"
        if self.verdict == "bit-identical":
            return f"bit-identical: {points}"
        largest = self.largest_difference
        if largest is None:
            size = f"of the weights {_format_exponent(self.weight_difference or 0)}"
        else:
            size = _format_exponent(largest.relative_difference)
            size += f", {largest.metric} at step {largest.step}"
        return f"{self.verdict} (largest relative difference {size})"


def compare_runs(one: Path, other: Path) -> Agreement:
    """Compares two runs by their folders; metrics of time and memory are ignored.

    Raises SpecError if the metrics or weights of a run can't be read.
    """
    return compare_records(RunRecord(one), RunRecord(other))


def compare_records(one: RunRecord, other: RunRecord) -> Agreement:
    """Like `compare_runs`."""
    for record in (one, other):
        if damage := record.problems.get("metrics.jsonl"):
            raise SpecError(
                f"{record.run_dir.name}: metrics.jsonl: {damage}; its numbers can't be compared"
            )
    first, second = _drop_timing_metrics(one.metrics), _drop_timing_metrics(other.metrics)
    end, end_description = _find_common_end((one, other), (first, second))
    common = sorted(first.keys() & second.keys())
    unmatched = (_find_unmatched(first, second, end), _find_unmatched(second, first, end))
    differences = [
        difference
        for key in common
        for difference in _iter_differences(key, first[key], second[key], end)
    ]
    first_differences: dict[str, MetricDifference] = {}
    for difference in differences:
        if difference.relative_difference > TOLERANCE:
            first_differences.setdefault(difference.metric, difference)
    weights = None
    if not (first_differences or end_description):
        weights = _compare_weights(one.run_dir, other.run_dir)
    num_points = sum(len(first[key].keys() & second[key].keys()) for key in common)
    verdict: Literal["bit-identical", "equal within 1e-6", "differs"] = "differs"
    if num_points and not (first_differences or any(unmatched) or (weights or 0) > TOLERANCE):
        verdict = "equal within 1e-6" if differences or weights else "bit-identical"
    return Agreement(
        verdict=verdict,
        num_common_points=num_points,
        num_common_metrics=len(common),
        largest_difference=max(
            differences, key=lambda difference: difference.relative_difference, default=None
        ),
        first_differences=first_differences,
        unmatched_metrics=unmatched,
        weight_difference=weights,
        end_description=end_description,
        causes=tuple(find_causes(one, other)),
    )


def _drop_timing_metrics(history: MetricHistory) -> MetricHistory:
    return {
        key: values
        for key, values in history.items()
        if not key.startswith(NONDETERMINISTIC_PREFIXES)
    }


def _find_unmatched(one: MetricHistory, other: MetricHistory, end: float) -> tuple[str, ...]:
    return tuple(sorted(key for key in one if key not in other and min(one[key]) < end))


def _find_common_end(
    records: tuple[RunRecord, RunRecord], histories: tuple[MetricHistory, MetricHistory]
) -> tuple[float, str | None]:
    """The last step of the shorter run, where its points may be incomplete, and its description;
    infinity and None if both runs are complete."""
    last = [max((step for values in h.values() for step in values), default=0) for h in histories]
    if last[0] == last[1] and all(record.status == "FINISHED" for record in records):
        return math.inf, None
    end = min(last)
    short = [record.status for record, step in zip(records, last, strict=True) if step == end]
    who = "both" if len(short) == 2 else "the first" if last[0] == end else "the second"
    status = next((status for status in short if status != "FINISHED"), None)
    return end, f"up to step {end}, where {who} ended" + (f" ({status})" if status else "")


def _iter_differences(
    key: str, one: Mapping[int, float], other: Mapping[int, float], end: float
) -> Iterator[MetricDifference]:
    """All points that aren't bit-identical, by step."""
    finite = [abs(v) for values in (one, other) for v in values.values() if math.isfinite(v)]
    floor = NEAR_ZERO_FRACTION * max(finite, default=0.0)
    for step in sorted(one.keys() | other.keys()):
        a, b = one.get(step), other.get(step)
        if a is None or b is None:
            if step < end:
                yield MetricDifference(key, step, a, b, math.inf)
        elif struct.pack("d", a) != struct.pack("d", b) and not (math.isnan(a) and math.isnan(b)):
            size = max(abs(a), abs(b), floor)
            finite_pair = math.isfinite(a) and math.isfinite(b)
            relative = (abs(a / size - b / size) if size else 0.0) if finite_pair else math.inf
            yield MetricDifference(key, step, a, b, relative)


def _compare_weights(one: Path, other: Path) -> float | None:
    files = one / "model.safetensors", other / "model.safetensors"
    if not all(file.is_file() for file in files):
        return None
    if filecmp.cmp(files[0], files[1], shallow=False):
        return 0.0
    from recipe.nn.weights import read_weights  # imports torch, and files that differ are rare

    try:
        first, second = (read_weights(file) for file in files)
    except ValueError as error:
        raise SpecError(f"weights: {error}; they can't be compared") from error
    if {name: (t.dtype, t.shape) for name, t in first.items()} != {
        name: (t.dtype, t.shape) for name, t in second.items()
    }:
        return math.inf
    worst = 0.0
    for name, tensor in first.items():
        a, b = tensor.double(), second[name].double()
        if a.numel() and not a.equal(b):
            size = max(a.abs().max().item(), b.abs().max().item())
            difference = (a - b).abs().max().item() / size
            worst = max(worst, difference if math.isfinite(difference) else math.inf)
    return worst


def _format_distinct_values(one: float | None, other: float | None) -> tuple[str, str]:
    """Formats both with as few digits as distinguish them."""
    pairs = [
        (_format_number(one, digits), _format_number(other, digits)) for digits in (4, 7, 10, 17)
    ]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[-1])


def _format_number(value: float | None, digits: int) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.{digits}g}"


def _format_exponent(number: float) -> str:
    """`3e-8`."""
    return f"{number:.0e}".replace("e-0", "e-").replace("e+0", "e+")
