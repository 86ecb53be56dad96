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
from recipe.formatting import counted, listed
from recipe.store import run_record
from recipe.store.journal import CLOCKED, Trace
from recipe.store.run_record import Record

TOLERANCE = 1e-6

NEAR_ZERO = 1e-3
"""Share of a metric's largest value: smaller values are held against that share of it, since
rounding moves them by what they were computed from."""


@dataclass(frozen=True)
class Difference:
    """Of one metric at one step; None: the run has no such point."""

    metric: str
    step: int
    one: float | None
    other: float | None
    relative: float
    """Infinite where only one run has the point, or only one of the values is finite."""


@dataclass(frozen=True)
class Agreement:
    verdict: Literal["bit-identical", "equal within 1e-6", "differs"]
    points: int
    """That both runs have."""
    metrics: int
    largest: Difference | None
    """The largest relative difference of these points; None: there is none."""
    first: Mapping[str, Difference]
    """Of each metric that differs by more: the first difference."""
    only: tuple[tuple[str, ...], tuple[str, ...]]
    """Metrics that only the one run has, and only the other."""
    weights: float | None
    """Largest difference between the best weights, relative to the tensor's largest; 0.0: they
    are the same bit for bit, None: they weren't compared."""
    until: str | None
    """Up to where the runs were compared, if that is not the end of both."""
    causes: tuple[str, ...]
    """What differs besides the numbers and may explain them."""

    @property
    def step(self) -> int | None:
        """The first step at which the runs differ."""
        return min((difference.step for difference in self.first.values()), default=None)

    @property
    def sentence(self) -> str:
        """All of it in a line."""
        parts = [self._verdict()]
        for which, names in zip(("first", "second"), self.only, strict=True):
            if names:
                parts.append(f"only the {which} has {listed(names)}")
        if self.until:
            parts.append(f"compared {self.until}")
        if self.verdict != "bit-identical":
            parts += self.causes or ["nothing that is recorded explains it"]
        return "; ".join(parts)

    def _verdict(self) -> str:
        if not self.points:
            return "nothing to compare: the runs have no point in common"
        same = f"{self.points:,} point{'s' * (self.points != 1)} of "
        same += counted(self.metrics, "metric")
        same += " and the weights" * (self.weights == 0)
        if self.verdict == "bit-identical":
            return f"bit-identical: {same}"
        if self.step is not None:
            return f"differs from step {self.step} on ({self._worst(self.step)})"
        if self.weights and self.weights > TOLERANCE:
            return f"differs in the weights, by {_power(self.weights)} of a tensor's largest"
        if self.verdict == "differs":
            return f"differs, but {same} agree"
        return f"{self.verdict} ({self._most()})"

    def _most(self) -> str:
        if self.largest is None:
            return f"largest relative difference of the weights {_power(self.weights or 0)}"
        where = f"{self.largest.metric} at step {self.largest.step}"
        return f"largest relative difference {_power(self.largest.relative)}, {where}"

    def _worst(self, step: int) -> str:
        """The metric that differs most at that step."""
        there = [difference for difference in self.first.values() if difference.step == step]
        worst = max(there, key=lambda difference: difference.relative)
        one, other = _apart(worst.one, worst.other)
        return f"{worst.metric} {one} against {other}"


def compare(one: Path, other: Path) -> Agreement:
    """The agreement of two runs' folders; points of time and memory don't count.

    Raises SpecError if the metrics of one can't be read.
    """
    return compare_records(run_record.read(one), run_record.read(other))


def compare_records(one: Record, other: Record) -> Agreement:
    """As `compare`."""
    for record in (one, other):
        lost = [line for line in record.damaged if line.startswith("metrics.jsonl")]
        if lost:
            raise SpecError(f"{record.folder.name}: {lost[0]}; its numbers can't be compared")
    traces = _numbers(one.trace), _numbers(other.trace)
    end, until = _end((one, other), traces)
    both = sorted(traces[0].keys() & traces[1].keys())
    only = tuple(
        tuple(sorted(key for key in mine if key not in theirs and min(mine[key]) < end))
        for mine, theirs in (traces, traces[::-1])
    )
    differences = [
        difference
        for key in both
        for difference in _differences(key, traces[0][key], traces[1][key], end)
    ]
    first: dict[str, Difference] = {}
    for difference in differences:
        if difference.relative > TOLERANCE:
            first.setdefault(difference.metric, difference)
    weights = None if first or until else _weights(one.folder, other.folder)
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
        points=points,
        metrics=len(both),
        largest=max(differences, key=lambda difference: difference.relative, default=None),
        first=first,
        only=(only[0], only[1]),
        weights=weights,
        until=until,
        causes=tuple(causes.between(one, other)),
    )


def _numbers(trace: Trace) -> Trace:
    return {key: values for key, values in trace.items() if not key.startswith(CLOCKED)}


def _end(records: tuple[Record, Record], traces: tuple[Trace, Trace]) -> tuple[float, str | None]:
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


def _differences(
    key: str, one: Mapping[int, float], other: Mapping[int, float], end: float
) -> Iterator[Difference]:
    """Every point that isn't the same bit for bit, in the order of steps."""
    finite = [abs(v) for values in (one, other) for v in values.values() if math.isfinite(v)]
    floor = NEAR_ZERO * max(finite, default=0.0)
    for step in sorted(one.keys() | other.keys()):
        a, b = one.get(step), other.get(step)
        if a is None or b is None:
            if step < end:
                yield Difference(key, step, a, b, math.inf)
        elif not _same_bits(a, b):
            yield Difference(key, step, a, b, _relative(a, b, floor))


def _same_bits(a: float, b: float) -> bool:
    return struct.pack("d", a) == struct.pack("d", b) or (math.isnan(a) and math.isnan(b))


def _relative(a: float, b: float, floor: float) -> float:
    """|a - b| relative to the larger of them, or to `floor` if they are smaller than that."""
    if not (math.isfinite(a) and math.isfinite(b)):
        return math.inf
    size = max(abs(a), abs(b), floor)
    return abs(a / size - b / size) if size else 0.0


def _weights(one: Path, other: Path) -> float | None:
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


def _apart(one: float | None, other: float | None) -> tuple[str, str]:
    """Both with as few digits as tell them apart."""
    pairs = [(_rounded(one, digits), _rounded(other, digits)) for digits in (4, 7, 10, 17)]
    return next((pair for pair in pairs if pair[0] != pair[1]), pairs[-1])


def _rounded(value: float | None, digits: int) -> str:
    if value is None:
        return "none"
    return f"{value:,.0f}" if value.is_integer() and abs(value) < 1e15 else f"{value:.{digits}g}"


def _power(number: float) -> str:
    """`3e-8`."""
    return f"{number:.0e}".replace("e-0", "e-").replace("e+0", "e+")
