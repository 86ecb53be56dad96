"""Which recorded runs are compared, and which of them are left out."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.compare.metric_unit import DIRECTED_METRIC_PREFIXES
from recipe.config import option_files
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
from recipe.store.sweep_jobs import JobResult

ALL_RUNS = run_dirs.ALL_RUNS
"""Given as the sweep: every recorded run."""

MAX_LISTED_METRICS = 16

MAX_LISTED_VARIANTS = 8
"""Variants without a finished run that are named."""

DEFAULT_GREEDY_CRITERION = "bare means over the seeds of each run's best val/accuracy"
"""What greedy plans rested on that don't say."""


@dataclass(frozen=True)
class Selection:
    title: str
    sweep_dir: Path | None
    """None: all recorded runs."""
    results: Sequence[RunResult]
    """Finished, with the metric, in the order in which they began."""
    cautions: Sequence[str]
    """What was left out, and why."""
    greedy_plan: GreedyPlan | None = None
    """If it is of a greedy plan."""


@dataclass(frozen=True)
class GreedyPlan:
    """What a greedy plan did, as its sweep.json says."""

    kept_variants: Sequence[str]
    """Those that were kept, the first with nothing on."""
    stop_reason: str
    criterion: str
    """What the choices rest on."""


def _format_cautions(cautions: Sequence[str]) -> str:
    return (
        f" ({format_list(cautions)}); give another --sweep, or all" if cautions else "; record some"
    )


def _read_greedy_plan(about: Mapping[str, Any]) -> GreedyPlan | None:
    path = about.get("path")
    if about.get("plan") != "greedy" or not isinstance(path, list):
        return None
    kept = [escape_unprintable(str(at.get("variant", ""))) for at in path if isinstance(at, dict)]
    stopped, by = (
        str(about.get("stopped", "before its end")),
        str(about.get("by", DEFAULT_GREEDY_CRITERION)),
    )
    return GreedyPlan(kept, escape_unprintable(stopped), escape_unprintable(by)) if kept else None


def select_runs(output_dir: Path, sweep_query: str, metric: str) -> Selection:
    """The runs of a sweep; without one those of the latest sweep, or all if there is none.

    Raises SpecError if there is no such sweep, or no finished run that has the metric.
    """
    there = sweep_dirs.list_sweep_dirs(output_dir)
    sweep = None
    if sweep_query and sweep_query != ALL_RUNS:
        sweep = sweep_dirs.find_sweep(output_dir, sweep_query)
    elif not sweep_query and there:
        sweep = there[-1]
    if sweep is None:
        ids = _list_run_ids(output_dir)
        found, title = (
            _read_results(output_dir, ids),
            f"All runs in {escape_unprintable(output_dir)}",
        )
        cautions = _describe_missing_runs(ids, found)
    else:
        found, cautions = _read_sweep(output_dir, sweep)
        title = escape_unprintable(str(sweep_record.read_record(sweep).get("name") or sweep.name))
    cautions += _describe_unfinished_runs(found)
    kept = [run for run in found if run.status == "FINISHED"]
    cautions += _describe_excluded_runs(kept)
    kept = [run for run in kept if not get_exclusion_reason(run)]
    if not kept:
        where = f"sweep {sweep.name}" if sweep else escape_unprintable(output_dir)
        raise SpecError(
            f"compare: no finished run is recorded of {where}{_format_cautions(cautions)}"
        )
    having = [run for run in kept if math.isfinite(run.last.get(metric, math.nan))]
    if len(having) < len(kept):
        number = pluralize(len(kept) - len(having), "finished run")
        cautions.append(f"{number} left out: without a finite {metric}")
    if not having:
        where = sweep.name if sweep else escape_unprintable(output_dir)
        raise SpecError(
            f"compare: no finished run of {where} has {metric}{_suggest_metrics(metric, kept)}"
        )
    climb = _read_greedy_plan(sweep_record.read_record(sweep)) if sweep else None
    return Selection(
        title, sweep, having, [*cautions, *_describe_environment_differences(having)], climb
    )


def _suggest_metrics(wanted: str, kept: Iterable[RunResult]) -> str:
    """Which metric may be meant, or which there are: those of quality first."""
    known = {key for run in kept for key, value in run.last.items() if math.isfinite(value)}
    if not known:
        return "; record some, or give --sweep"
    first = sorted(
        known,
        key=lambda key: (
            not key.startswith(DIRECTED_METRIC_PREFIXES),
            key.startswith("audit/"),
            key,
        ),
    )
    return (
        option_files.suggest_nearest(wanted, first)
        or f"; there are {format_list(first, MAX_LISTED_METRICS)}"
    )


def _read_sweep(outputs: Path, sweep: Path) -> tuple[list[RunResult], list[str]]:
    """Its runs, those among them that were recorded before; and what is missing."""
    cautions = []
    try:
        ended = sweep_jobs.read_results(sweep)
    except (OSError, ValueError, TypeError) as error:
        cautions.append(f"{_describe_damage(error)}; what the sweep's runs say is taken")
        ended = _infer_job_results(sweep)
    ids = [each.run for each in ended if each.run]
    found = _read_results(outputs, ids)
    cautions += _describe_missing_runs(ids, found)
    total = sweep_record.read_record(sweep).get("jobs")
    failed = Counter(each.status for each in ended if each.status != "FINISHED")
    for status, number in sorted(failed.items()):
        cautions.append(f"{pluralize(number, 'job')} left out: {status.lower()}")
    if isinstance(total, int) and len(ended) < total:
        cautions.append(f"{pluralize(total - len(ended), 'job')} of {total} not ended yet")
    return found, [*cautions, *_iter_variants_without_runs(sweep, ended)]


def _iter_variants_without_runs(sweep: Path, ended: Sequence[JobResult]) -> Iterator[str]:
    """The variants that were planned and of which nothing can be said, and why."""
    by_number = {each.number: each for each in ended}
    jobs: dict[str, list[JobResult | None]] = defaultdict(list)
    for number, job in sweep_members.read_planned_jobs(
        sweep_record.read_record(sweep), by_number
    ).items():
        jobs[escape_unprintable(job.variant)].append(by_number.get(number))
    unseen = []
    for variant, its in jobs.items():
        if not variant or any(e and e.status in ("FINISHED", "PRUNED") for e in its):
            continue
        failed = [e for e in its if e and e.status in ("FAILED", "REFUSED")]
        if len(failed) == len(its):
            reasons = dict.fromkeys(
                escape_unprintable(e.short_problem) for e in failed if e.short_problem
            )
            why = format_list(list(reasons), 1)
            yield f"every run of {variant} failed: {why or 'for no reason that is known'}"
        else:
            unseen.append(variant)
    if unseen:
        yield f"no run is finished yet of {format_list(unseen, MAX_LISTED_VARIANTS)}"


def _list_run_ids(outputs: Path) -> list[str]:
    """The ids of all runs."""
    folder = run_dirs.get_runs_dir(outputs)
    return [name for name in os.listdir(folder) if os.path.lexists(f"{folder}/{name}/run.json")]


def _read_results(outputs: Path, ids: Sequence[str]) -> list[RunResult]:
    """The runs of which it is known what they are runs of."""
    return [run for run in results.read_results(outputs, ids) if run.settings]


def _describe_missing_runs(ids: Iterable[str], found: Iterable[RunResult]) -> list[str]:
    """Which runs' files are missing or damaged."""
    lost = sorted(set(ids) - {run.run for run in found})
    number = pluralize(len(lost), "run")
    which = format_list([escape_unprintable(run) for run in lost])
    return [f"{number} left out: missing or damaged ({which})"] if lost else []


def _describe_damage(error: Exception) -> str:
    return f"jobs.jsonl can't be read ({escape_unprintable(str(error).splitlines()[0])})"


def _infer_job_results(sweep: Path) -> list[JobResult]:
    """How the jobs ended, as far as their runs tell."""
    states = {state: status for status, state in sweep_status.STATE_BY_STATUS.items()}
    message = enumerate(sweep_status.read_status(sweep).jobs)
    return [
        JobResult(number, job.variant, states[job.state], job.run_id)
        for number, job in message
        if job.state in states
    ]


def _describe_unfinished_runs(found: Iterable[RunResult]) -> list[str]:
    states = Counter(run.status for run in found if run.status != "FINISHED")
    return [
        f"{pluralize(number, 'run')} left out: {status.lower()}"
        for status, number in sorted(states.items())
    ]


def get_exclusion_reason(run: RunResult) -> str:
    """Why a run's numbers are of no one spec; empty if they are."""
    if "recipe.resumed_from" in run.tags:
        return "started from another run's checkpoint"
    if run.tags.get("recipe.fingerprint") == "mixed":
        return "was resumed by other code or on another machine"
    return ""


def _describe_excluded_runs(found: Iterable[RunResult]) -> list[str]:
    reasons = Counter(filter(None, map(get_exclusion_reason, found)))
    return [
        f"{pluralize(number, 'run')} left out: {why}" for why, number in sorted(reasons.items())
    ]


def _describe_environment_differences(runs: Sequence[RunResult]) -> list[str]:
    """What changes numbers and isn't a setting, where the runs differ in it."""
    cautions = []
    for key, what in (
        ("recipe.device", "devices or numbers of threads"),
        ("version.torch", "versions of torch"),
        ("version.recipe", "versions of recipe"),
    ):
        if len(seen := sorted({run.tags.get(key, "unknown") for run in runs})) > 1:
            cautions.append(f"the runs are of different {what}: {format_list(seen)}")
    return cautions
