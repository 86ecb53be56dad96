"""Results of recorded runs: what comparisons need of each, read in bulk.

A finished run stores its result in `result.json`; for other runs, and if the journals have grown
since, it is computed from the journals.
"""

from __future__ import annotations

import contextlib
import functools
import math
import os
import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from operator import lt
from pathlib import Path
from typing import Any

from pydantic import ConfigDict, TypeAdapter

from recipe import atomic_write
from recipe.config import safe_yaml
from recipe.config.renamed_targets import current_target, update_targets
from recipe.formatting import escape_unprintable
from recipe.store import journal, run_dirs
from recipe.store.run_record import RunRecord

FORMAT_VERSION = 4  # of result.json; files of other versions are ignored

JOURNAL_FILES = ("events.jsonl", "metrics.jsonl")

EPOCH_TIME_METRIC = "time/epoch_s"

BATCH_METRIC_PREFIXES = ("train/", "clip/grad_norm")

MAX_JOURNAL_BYTES = 2**28

MetricPoints = list[tuple[int, float]]  # global steps and values


@dataclass(frozen=True)
class RunResult:
    run: str
    """The run's id."""
    name: str
    status: str
    """RUNNING, FINISHED, FAILED, KILLED or PRUNED."""
    sweep: str | None = None
    seed: str = ""
    settings: Mapping[str, str] = field(default_factory=dict)
    """Options by group, and settings by dotted key, without the seed."""
    tags: Mapping[str, str] = field(default_factory=dict)
    seconds: float | None = None
    """The duration of the run, without interruptions."""
    last: Mapping[str, float] = field(default_factory=dict)
    """The value of each metric after the last epoch; the mean over that epoch for metrics that are
    measured on each batch."""
    curves: Mapping[str, MetricPoints] = field(default_factory=dict)
    """Metrics that are measured after each epoch."""
    epoch_s: float | None = None
    """The median of the seconds per epoch, without the first epoch of each process; None if there
    is no other."""
    peak_mb: float | None = None

    @property
    def no_effect(self) -> list[str]:
        """`group=option` of the tricks without an effect."""
        return list(filter(None, self.tags.get("recipe.no_effect", "").split(", ")))

    @functools.cached_property
    def initial_state(self) -> dict[str, str]:
        """Hashes of the initial state, by name (recipe.runner.fingerprint)."""
        return {k[6:]: v for k, v in self.tags.items() if k.startswith("start.")}


@dataclass(frozen=True)
class _ResultFile:
    __pydantic_config__ = ConfigDict(ser_json_inf_nan="constants")

    format: int
    sizes: Sequence[int]
    """The sizes of the journals in bytes."""
    result: RunResult


RESULT_FILE_ADAPTER = TypeAdapter(_ResultFile)


def read_results(outputs: Path, ids: Iterable[str] | None = None) -> list[RunResult]:
    """Reads the results of all recorded runs, or of these, in the order of their starts. Runs with
    missing or damaged files are left out."""
    folder = run_dirs.get_runs_dir(outputs)
    try:
        names = sorted(os.listdir(folder) if ids is None else set(ids))
    except OSError:
        return []
    return [found for name in names if (found := read_result(folder / name))]


def read_result(run_dir: Path) -> RunResult | None:
    """Returns None for a missing or damaged run."""
    with contextlib.suppress(OSError, ValueError):
        with safe_yaml.open_regular_file(f"{run_dir}/result.json") as file:  # faster than a Path
            stored = RESULT_FILE_ADAPTER.validate_json(file.read())
        sizes = _get_journal_sizes(run_dir)
        if stored.format == FORMAT_VERSION and stored.sizes == sizes:
            return stored.result
        if stored.format == FORMAT_VERSION and any(map(lt, sizes, stored.sizes)):
            return None  # a journal was truncated
    return _read_journals(run_dir)


def write_result(run_dir: Path) -> None:
    """Writes the `result.json` of a run that has ended. Raises OSError."""
    result = _read_journals(run_dir)
    if result:
        kept = _ResultFile(FORMAT_VERSION, _get_journal_sizes(run_dir), result)
        atomic_write.write_file(
            run_dir / "result.json", RESULT_FILE_ADAPTER.dump_json(kept), sync=False
        )


def _get_journal_sizes(run_dir: Path) -> list[int]:
    return [os.stat(f"{run_dir}/{name}").st_size for name in JOURNAL_FILES]


def _read_journals(run_dir: Path) -> RunResult | None:
    try:
        if any(size > MAX_JOURNAL_BYTES for size in _get_journal_sizes(run_dir)):
            return None
    except OSError:
        return None
    record = RunRecord(run_dir)
    info, events = record.info, record.events
    points = {key: sorted(values.items()) for key, values in record.metrics.items()}
    if info is None or not record.known_problems.keys().isdisjoint(JOURNAL_FILES):
        return None
    recorded = {kind: _escape_texts(record.merge_events(kind)) for kind in ("parameters", "tags")}
    settings = {
        key: current_target(value) if key.endswith("._target_") else update_targets(value)
        for key, value in recorded["parameters"].items()
    }
    ends = [event.get("status") for event in events if event.get("kind") == "end"]
    if info.status == "FINISHED" and ends[-1:] != ["FINISHED"]:
        return None  # the event of the end is written last
    seed = settings.pop("seed", "")
    return RunResult(
        run=run_dir.name,
        name=info.name,
        status=info.status,
        sweep=info.sweep,
        seed=seed,
        settings=settings,
        tags={k: v for k, v in recorded["tags"].items() if not k.startswith("mlflow.note")},
        seconds=_compute_seconds(events),
        last=_get_last_values(points),
        curves={key: values for key, values in points.items() if key.startswith("val/")},
        epoch_s=_summarize(
            statistics.median,
            _drop_first_epochs(run_dir, events, points.get(EPOCH_TIME_METRIC, [])),
        ),
        peak_mb=_summarize(max, points.get("memory/peak_mb")),
    )


def _get_last_values(points: Mapping[str, MetricPoints]) -> dict[str, float]:
    ends = [step for step, _ in points.get(EPOCH_TIME_METRIC) or points.get("val/accuracy", [])]
    began = ends[-2] if len(ends) > 1 else -1
    found = {}
    for key, values in points.items():
        found[key] = values[-1][1]
        if key.startswith(BATCH_METRIC_PREFIXES):
            finite = [value for step, value in values if step > began and math.isfinite(value)]
            found[key] = math.fsum(finite) / len(finite) if finite else math.nan
    return found


def _escape_texts(values: Mapping[str, object]) -> dict[str, str]:
    return {escape_unprintable(key): escape_unprintable(str(v)) for key, v in values.items()}


def _compute_seconds(events: Iterable[Mapping[str, Any]]) -> float | None:
    """The total duration of its processes; None if the run hasn't ended."""
    total, began = 0.0, None
    for event in events:
        if event.get("kind") in ("started", "resumed"):
            began = event["time"]
        elif event.get("kind") == "end" and began is not None:
            total, began = total + (event["time"] - began) / 1000, None
    return total if total and began is None else None


def _drop_first_epochs(
    run_dir: Path, events: Sequence[Mapping[str, Any]], epochs: MetricPoints
) -> MetricPoints:
    """Drops the first epoch of each process, which includes warm-up."""
    resumed = [event["time"] for event in events if event.get("kind") == "resumed"]
    cold = {step for step, _ in epochs[:1]}
    if resumed:
        lines = [
            each
            for each in journal.read_lines(run_dir / "metrics.jsonl")[0]
            if EPOCH_TIME_METRIC in each["metrics"]
        ]
        for time in resumed:
            cold |= {next((each["step"] for each in lines if each["time"] >= time), -1)}
    return [(step, seconds) for step, seconds in epochs if step not in cold]


def _summarize(summary: Any, points: MetricPoints | None) -> float | None:
    values = [value for _, value in points or () if math.isfinite(value)]
    return float(summary(values)) if values else None
