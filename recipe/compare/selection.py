"""The recorded runs that are compared, and those that are left out."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.compare.metric_unit import DIRECTED_METRIC_PREFIXES
from recipe.config.option_files import suggest_nearest
from recipe.errors import SpecError
from recipe.formatting import escape_unprintable, format_list, pluralize
from recipe.store import (
    results,
    run_dirs,
    sweep_dirs,
    sweep_jobs,
    sweep_members,
    sweep_record,
    sweep_status,
)
from recipe.store.results import RunResult
from recipe.store.run_dirs import ALL_RUNS
from recipe.store.sweep_jobs import JobResult

MAX_LISTED_METRICS = 16

MAX_LISTED_VARIANTS = 8

DEFAULT_GREEDY_CRITERION = "bare means over the seeds of each run's best val/accuracy"


@dataclass(frozen=True)
class GreedyPlan:
    """The recorded course of a greedy plan of an older version."""

    kept_variants: Sequence[str]
    """The first is the baseline."""
    stop_reason: str
    criterion: str


@dataclass(frozen=True)
class Selection:
    title: str
    sweep_dir: Path | None
    """None: all recorded runs."""
    results: Sequence[RunResult]
    """The finished runs that have the metric, in the order of their starts."""
    cautions: Sequence[str]
    """What was left out, and why."""
    greedy_plan: GreedyPlan | None = None


def select_runs(output_dir: Path, sweep_query: str, metric: str) -> Selection:
    """Selects the runs of a sweep; without a query those of the latest sweep, or all runs.

    Raises SpecError for an unknown sweep, or if no finished run has the metric.
    """
    sweep_dir = None
    if sweep_query and sweep_query != ALL_RUNS:
        sweep_dir = sweep_dirs.find_sweep(output_dir, sweep_query)
    elif not sweep_query and (sweeps := sweep_dirs.list_sweep_dirs(output_dir)):
        sweep_dir = sweeps[-1]
    about: Mapping[str, Any] = {}
    if sweep_dir is None:
        where, title = str(output_dir), f"All runs in {escape_unprintable(output_dir)}"
        ids = _list_run_ids(output_dir)
        found = _read_results(output_dir, ids)
        cautions = _describe_missing_runs(ids, found)
    else:
        about = sweep_record.read_record(sweep_dir)
        where = f"sweep {sweep_dir.name}"
        title = escape_unprintable(about.get("name") or sweep_dir.name)
        found, cautions = _read_sweep(output_dir, sweep_dir)
    cautions += _describe_counts(run.status.lower() for run in found if run.status != "FINISHED")
    finished = [run for run in found if run.status == "FINISHED"]
    cautions += _describe_counts(filter(None, map(get_exclusion_reason, finished)))
    finished = [run for run in finished if not get_exclusion_reason(run)]
    where = escape_unprintable(where)
    if not finished:
        hint = "; record some"
        if cautions:
            hint = f" ({format_list(cautions)}); use another sweep, or all"
        raise SpecError(f"compare: {where} has no finished run{hint}")
    selected = [run for run in finished if math.isfinite(run.last.get(metric, math.nan))]
    if len(selected) < len(finished):
        number = pluralize(len(finished) - len(selected), "finished run")
        cautions.append(f"{number} left out: without a finite {metric}")
    if not selected:
        hint = _suggest_metrics(metric, finished)
        raise SpecError(f"compare: no finished run of {where} has {metric}{hint}")
    cautions += _describe_environment_differences(selected)
    return Selection(title, sweep_dir, selected, cautions, _parse_greedy_plan(about))


def _parse_greedy_plan(about: Mapping[str, Any]) -> GreedyPlan | None:
    path = about.get("path")
    if about.get("plan") != "greedy" or not path:
        return None
    return GreedyPlan(
        [escape_unprintable(str(step.get("variant", ""))) for step in path],
        escape_unprintable(about.get("stopped", "before its end")),
        escape_unprintable(about.get("by", DEFAULT_GREEDY_CRITERION)),
    )


def _suggest_metrics(wanted: str, runs: Iterable[RunResult]) -> str:
    known = {key for run in runs for key, value in run.last.items() if math.isfinite(value)}
    if not known:
        return "; record some, or use another sweep"

    def sort_key(key: str) -> tuple[bool, bool, str]:
        return (not key.startswith(DIRECTED_METRIC_PREFIXES), key.startswith("audit/"), key)

    metrics = sorted(known, key=sort_key)
    return suggest_nearest(wanted, metrics) or (
        f"; there are {format_list(metrics, MAX_LISTED_METRICS)}"
    )


def _read_sweep(outputs: Path, sweep_dir: Path) -> tuple[list[RunResult], list[str]]:
    """Returns the runs of a sweep, including reused ones, and cautions about missing ones."""
    cautions = []
    try:
        ended = sweep_jobs.read_results(sweep_dir)
    except (OSError, ValueError, TypeError) as error:
        reason = escape_unprintable(str(error).splitlines()[0])
        cautions.append(f"jobs.jsonl can't be read ({reason}); the records of the runs are used")
        ended = _infer_job_results(sweep_dir)
    ids = [job.run for job in ended if job.run]
    found = _read_results(outputs, ids)
    cautions += _describe_missing_runs(ids, found)
    cautions += _describe_counts(
        (job.status.lower() for job in ended if job.status != "FINISHED"), "job"
    )
    total = sweep_record.read_record(sweep_dir).get("jobs", 0)
    if len(ended) < total:
        cautions.append(f"{pluralize(total - len(ended), 'job')} of {total} not ended yet")
    return found, [*cautions, *_iter_variants_without_runs(sweep_dir, ended)]


def _iter_variants_without_runs(sweep_dir: Path, ended: Sequence[JobResult]) -> Iterator[str]:
    results_by_number = {job.number: job for job in ended}
    planned = sweep_members.read_planned_jobs(
        sweep_record.read_record(sweep_dir), results_by_number
    )
    jobs_by_variant: dict[str, list[JobResult | None]] = defaultdict(list)
    for number, job in planned.items():
        if job.variant:
            variant = escape_unprintable(job.variant)
            jobs_by_variant[variant].append(results_by_number.get(number))
    unfinished = []
    for variant, jobs in jobs_by_variant.items():
        statuses = [job.status if job else None for job in jobs]
        if "FINISHED" in statuses or "PRUNED" in statuses:
            continue
        if all(status in ("FAILED", "REFUSED") for status in statuses):
            problems = (escape_unprintable(job.short_problem) for job in jobs if job)
            reasons = list(dict.fromkeys(filter(None, problems)))
            yield f"every run of {variant} failed: {format_list(reasons, 1) or 'unknown reason'}"
        else:
            unfinished.append(variant)
    if unfinished:
        yield f"no run is finished yet of {format_list(unfinished, MAX_LISTED_VARIANTS)}"


def _list_run_ids(outputs: Path) -> list[str]:
    folder = run_dirs.get_runs_dir(outputs)
    return [name for name in os.listdir(folder) if os.path.lexists(f"{folder}/{name}/run.json")]


def _read_results(outputs: Path, ids: Sequence[str]) -> list[RunResult]:
    return [run for run in results.read_results(outputs, ids) if run.settings]


def _describe_missing_runs(ids: Iterable[str], found: Iterable[RunResult]) -> list[str]:
    missing = sorted(set(ids) - {run.run for run in found})
    number = pluralize(len(missing), "run")
    names = format_list([escape_unprintable(run) for run in missing])
    return [f"{number} left out: missing or damaged ({names})"] if missing else []


def _describe_counts(reasons: Iterable[str], noun: str = "run") -> list[str]:
    counts = sorted(Counter(reasons).items())
    return [f"{pluralize(number, noun)} left out: {reason}" for reason, number in counts]


def _infer_job_results(sweep_dir: Path) -> list[JobResult]:
    """The results of jobs by the records of their runs."""
    statuses = {state: status for status, state in sweep_status.STATE_BY_STATUS.items()}
    return [
        JobResult(number, job.variant, statuses[job.state], job.run_id)
        for number, job in enumerate(sweep_status.read_status(sweep_dir).jobs)
        if job.state in statuses
    ]


def get_exclusion_reason(run: RunResult) -> str:
    """Why the numbers of a run don't belong to a single spec; empty if they do."""
    if "recipe.resumed_from" in run.tags:
        return "started from another run's checkpoint"
    if run.tags.get("recipe.fingerprint") == "mixed":
        return "was resumed by other code or on another machine"
    return ""


def _describe_environment_differences(runs: Sequence[RunResult]) -> Iterator[str]:
    for tag, what in (
        ("recipe.device", "devices or numbers of threads"),
        ("version.torch", "versions of torch"),
        ("version.recipe", "versions of recipe"),
    ):
        if len(values := sorted({run.tags.get(tag, "unknown") for run in runs})) > 1:
            yield f"the runs are of different {what}: {format_list(values)}"
