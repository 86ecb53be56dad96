"""Do the numbers of two recorded runs agree, how well, and what may explain it if they don't?"""

from __future__ import annotations

import filecmp
import math
import struct
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from recipe.compare import causes
from recipe.errors import SpecError
from recipe.formatting import format_list, pluralize
from recipe.store.journal import NONDETERMINISTIC_PREFIXES, MetricHistory
from recipe.store.run_record import RunRecord

TOLERANCE = 1e-6

NEAR_ZERO_FRACTION = 1e-3
"""Share of a metric's largest value: smaller values are held against that share of it, since
rounding moves them by what they were computed from."""


@dataclass(frozen=True)
class MetricDifference:
    """Of one metric at one step; None: the run has no such point."""

    metric: str
    step: int
    first_value: float | None
    second_value: float | None
    relative_difference: float
    """Infinite where only one run has the point, or only one of the values is finite."""


@dataclass(frozen=True)
class Agreement:
    verdict: Literal["bit-identical", "equal within 1e-6", "differs"]
    num_common_points: int
    """That both runs have."""
    num_common_metrics: int
    largest_difference: MetricDifference | None
    """The largest relative difference of these points; None: there is none."""
    first_differences: Mapping[str, MetricDifference]
    """Of each metric that differs by more: the first difference."""
    unmatched_metrics: tuple[tuple[str, ...], tuple[str, ...]]
    """Metrics that only the one run has, and only the other."""
    weight_difference: float | None
    """Largest difference between the best weights, relative to the tensor's largest; 0.0: they
    are the same bit for bit, None: they weren't compared."""
    end_description: str | None
    """Up to where the runs were compared, if that is not the end of both."""
    causes: tuple[str, ...]
    """What differs besides the numbers and may explain them."""

    @property
    def first_differing_step(self) -> int | None:
        """The first step at which the runs differ."""
        return min(
            (difference.step for difference in self.first_differences.values()), default=None
        )

    @property
    def summary(self) -> str:
        """All of it in a line."""
        parts = [self._format_verdict()]
        for which, names in zip(("first", "second"), self.unmatched_metrics, strict=True):
            if names:
                parts.append(f"only the {which} has {format_list(names)}")
        if self.end_description:
            parts.append(f"compared {self.end_description}")
        if self.verdict != "bit-identical":
            parts += self.causes or ["nothing that is recorded explains it"]
        return "; ".join(parts)

    def _format_verdict(self) -> str:
        if not self.num_common_points:
            return "nothing to compare: the runs have no point in common"
        same = f"{self.num_common_points:,} point{'s' * (self.num_common_points != 1)} of "
        same += pluralize(self.num_common_metrics, "metric")
        same += " and the weights" * (self.weight_difference == 0)
        if self.verdict == "bit-identical":
            return f"bit-identical: {same}"
        if self.first_differing_step is not None:
            return (
                f"differs from step {self.first_differing_step} on "
                f"({self._format_first_difference(self.first_differing_step)})"
            )
        if self.weight_difference and self.weight_difference > TOLERANCE:
            return (
                f"differs in the weights, by {_format_exponent(self.weight_difference)} of a "
                "tensor's largest"
            )
        if self.verdict == "differs":
            return f"differs, but {same} agree"
        return f"{self.verdict} ({self._format_largest_difference()})"

    def _format_largest_difference(self) -> str:
        if self.largest_difference is None:
            return (
                "largest relative difference of the weights "
                f"{_format_exponent(self.weight_difference or 0)}"
            )
        where = f"{self.largest_difference.metric} at step {self.largest_difference.step}"
        return (
            "largest relative difference "
            f"{_format_exponent(self.largest_difference.relative_difference)}, {where}"
        )

    def _format_first_difference(self, step: int) -> str:
        """The metric that differs most at that step."""
        there = [
            difference for difference in self.first_differences.values() if difference.step == step
        ]
        worst = max(there, key=lambda difference: difference.relative_difference)
        one, other = _format_distinct_values(worst.first_value, worst.second_value)
        return f"{worst.metric} {one} against {other}"


def compare_runs(one: Path, other: Path) -> Agreement:
    """The agreement of two runs' folders; points of time and memory don't count.

    Raises SpecError if the metrics of one can't be read.
    """
    return compare_records(RunRecord(one), RunRecord(other))


def compare_records(one: RunRecord, other: RunRecord) -> Agreement:
    """As `compare`."""
    for record in (one, other):
        if damage := record.problems.get("metrics.jsonl"):
            raise SpecError(
                f"{record.run_dir.name}: metrics.jsonl: {damage}; its numbers can't be compared"
            )
    traces = _drop_timing_metrics(one.metrics), _drop_timing_metrics(other.metrics)
    end, until = _find_common_end((one, other), traces)
    both = sorted(traces[0].keys() & traces[1].keys())
    only = tuple(
        tuple(sorted(key for key in mine if key not in theirs and min(mine[key]) < end))
        for mine, theirs in (traces, traces[::-1])
    )
    differences = [
        difference
        for key in both
        for difference in _iter_differences(key, traces[0][key], traces[1][key], end)
    ]
    first: dict[str, MetricDifference] = {}
    for difference in differences:
        if difference.relative_difference > TOLERANCE:
            first.setdefault(difference.metric, difference)
    weights = None if first or until else _compare_weights(one.run_dir, other.run_dir)
    points = sum(len(traces[0][key].keys() & traces[1][key].keys()) for key in both)
    bits = not differences and not weights
    alike = not first and (weights or 0) <= TOLERANCE
    return Agreement(
        verdict=(
            "differs"
            if not alike or any(only) or not points
            else "bit-identical"
            if bits
            else "equal within 1e-6"
        ),
        num_common_points=points,
        num_common_metrics=len(both),
        largest_difference=max(
            differences, key=lambda difference: difference.relative_difference, default=None
        ),
        first_differences=first,
        unmatched_metrics=(only[0], only[1]),
        weight_difference=weights,
        end_description=until,
        causes=tuple(causes.find_causes(one, other)),
    )


def _drop_timing_metrics(trace: MetricHistory) -> MetricHistory:
    return {
        key: values
        for key, values in trace.items()
        if not key.startswith(NONDETERMINISTIC_PREFIXES)
    }


def _find_common_end(
    records: tuple[RunRecord, RunRecord], traces: tuple[MetricHistory, MetricHistory]
) -> tuple[float, str | None]:
    """The step from which on a point may be missing in one of the runs, and how that is said.

    It is the last step of the shorter run, whose points there may be incomplete too.
    """
    last = [max((step for values in t.values() for step in values), default=0) for t in traces]
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
    """Every point that isn't the same bit for bit, in the order of steps."""
    finite = [abs(v) for values in (one, other) for v in values.values() if math.isfinite(v)]
    floor = NEAR_ZERO_FRACTION * max(finite, default=0.0)
    for step in sorted(one.keys() | other.keys()):
        a, b = one.get(step), other.get(step)
        if a is None or b is None:
            if step < end:
                yield MetricDifference(key, step, a, b, math.inf)
        elif not _is_bit_identical(a, b):
            yield MetricDifference(key, step, a, b, _compute_relative_difference(a, b, floor))


def _is_bit_identical(a: float, b: float) -> bool:
    return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))


def _compute_relative_difference(a: float, b: float, floor: float) -> float:
    """|a - b| relative to the larger of them, or to `floor` if they are smaller than that."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    size = max(abs(a), abs(b), floor)
    return abs(a / size - b / size) if size else 0.0


def _compare_weights(one: Path, other: Path) -> float | None:
    """The largest difference between the best weights, relative to the tensor's largest number."""
    files = one / "model.safetensors", other / "model.safetensors"
    if not all(file.is_file() for file in files):
        return None
    if filecmp.cmp(files[0], files[1], shallow=False):
        return 0.0
    from recipe.nn.weights import read_weights

    try:
        tensors = [read_weights(file) for file in files]
    except ValueError as error:
        raise SpecError(f"weights: {error}; they can't be compared") from error
    if {k: (t.dtype, t.shape) for k, t in tensors[0].items()} != {
        k: (t.dtype, t.shape) for k, t in tensors[1].items()
    }:
        return math.inf
    worst = 0.0
    for name, tensor in tensors[0].items():
        a, b = tensor.double(), tensors[1][name].double()
        if a.numel() and not a.equal(b):
            size = max(a.abs().max().item(), b.abs().max().item())
            found = (a - b).abs().max().item() / size
            worst = max(worst, found if math.isfinite(found) else math.inf)
    return worst


def _format_distinct_values(one: float | None, other: float | None) -> tuple[str, str]:
    """Both with as few digits as tell them apart."""
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
