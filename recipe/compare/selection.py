"""Which recorded runs are compared, and which of them are left out."""

from __future__ import annotations

import math
import os
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe.compare.metric_unit import QUALITY
from recipe.config import option_files
from recipe.errors import SpecError
from recipe.formatting import counted, listed, printable
from recipe.store import (
    results,
    run_dirs,
    sweep_dirs,
    sweep_jobs,
    sweep_members,
    sweep_record,
    sweep_status,
)
from recipe.store.results import Result
from recipe.store.sweep_jobs import Ended

ALL = run_dirs.ALL
"""Given as the sweep: every recorded run."""

MOST_METRICS = 16

MOST_UNSEEN = 8
"""Variants without a finished run that are named."""

EARLIER = "bare means over the seeds of each run's best val/accuracy"
"""What greedy plans rested on that don't say."""


@dataclass(frozen=True)
class Selection:
    title: str
    sweep: Path | None
    """None: all recorded runs."""
    runs: Sequence[Result]
    """Finished, with the metric, in the order in which they began."""
    cautions: Sequence[str]
    """What was left out, and why."""
    greedy: Climb | None = None
    """If it is of a greedy plan."""


@dataclass(frozen=True)
class Climb:
    """What a greedy plan did, as its sweep.json says."""

    variants: Sequence[str]
    """Those that were kept, the first with nothing on."""
    stopped: str
    by: str
    """What the choices rest on."""


def _why(cautions: Sequence[str]) -> str:
    return f" ({listed(cautions)}); give another --sweep, or all" if cautions else "; record some"


def _climb(about: Mapping[str, Any]) -> Climb | None:
    path = about.get("path")
    if about.get("plan") != "greedy" or not isinstance(path, list):
        return None
    kept = [printable(str(at.get("variant", ""))) for at in path if isinstance(at, dict)]
    stopped, by = str(about.get("stopped", "before its end")), str(about.get("by", EARLIER))
    return Climb(kept, printable(stopped), printable(by)) if kept else None


def select(outputs: Path, wanted: str, metric: str) -> Selection:
    """The runs of a sweep; without one those of the latest sweep, or all if there is none.

    Raises SpecError if there is no such sweep, or no finished run that has the metric.
    """
    there = sweep_dirs.folders(outputs)
    sweep = None
    if wanted and wanted != ALL:
        sweep = sweep_dirs.find(outputs, wanted)
    elif not wanted and there:
        sweep = there[-1]
    if sweep is None:
        ids = _recorded(outputs)
        found, title = _read(outputs, ids), f"All runs in {printable(outputs)}"
        cautions = _lost(ids, found)
    else:
        found, cautions = _of_sweep(outputs, sweep)
        title = printable(str(sweep_record.read(sweep).get("name") or sweep.name))
    cautions += _unfinished(found)
    kept = [run for run in found if run.status == "FINISHED"]
    cautions += _set_apart(kept)
    kept = [run for run in kept if not apart(run)]
    if not kept:
        where = f"sweep {sweep.name}" if sweep else printable(outputs)
        raise SpecError(f"compare: no finished run is recorded of {where}{_why(cautions)}")
    having = [run for run in kept if math.isfinite(run.last.get(metric, math.nan))]
    if len(having) < len(kept):
        number = counted(len(kept) - len(having), "finished run")
        cautions.append(f"{number} left out: without a finite {metric}")
    if not having:
        where = sweep.name if sweep else printable(outputs)
        raise SpecError(f"compare: no finished run of {where} has {metric}{_metrics(metric, kept)}")
    climb = _climb(sweep_record.read(sweep)) if sweep else None
    return Selection(title, sweep, having, [*cautions, *_unlike(having)], climb)


def _metrics(wanted: str, kept: Iterable[Result]) -> str:
    """Which metric may be meant, or which there are: those of quality first."""
    known = {key for run in kept for key, value in run.last.items() if math.isfinite(value)}
    if not known:
        return "; record some, or give --sweep"
    first = sorted(
        known, key=lambda key: (not key.startswith(QUALITY), key.startswith("audit/"), key)
    )
    return option_files.nearest(wanted, first) or f"; there are {listed(first, MOST_METRICS)}"


def _of_sweep(outputs: Path, sweep: Path) -> tuple[list[Result], list[str]]:
    """Its runs, those among them that were recorded before; and what is missing."""
    cautions = []
    try:
        ended = sweep_jobs.read(sweep)
    except (OSError, ValueError, TypeError) as error:
        cautions.append(f"{_damage(error)}; what the sweep's runs say is taken")
        ended = _by_standing(sweep)
    ids = [each.run for each in ended if each.run]
    found = _read(outputs, ids)
    cautions += _lost(ids, found)
    total = sweep_record.read(sweep).get("jobs")
    failed = Counter(each.status for each in ended if each.status != "FINISHED")
    for status, number in sorted(failed.items()):
        cautions.append(f"{counted(number, 'job')} left out: {status.lower()}")
    if isinstance(total, int) and len(ended) < total:
        cautions.append(f"{counted(total - len(ended), 'job')} of {total} not ended yet")
    return found, [*cautions, *_without_runs(sweep, ended)]


def _without_runs(sweep: Path, ended: Sequence[Ended]) -> Iterator[str]:
    """The variants that were planned and of which nothing can be said, and why."""
    by_number = {each.number: each for each in ended}
    jobs: dict[str, list[Ended | None]] = defaultdict(list)
    for number, job in sweep_members.planned(sweep_record.read(sweep), by_number).items():
        jobs[printable(job.variant)].append(by_number.get(number))
    unseen = []
    for variant, its in jobs.items():
        if not variant or any(e and e.status in ("FINISHED", "PRUNED") for e in its):
            continue
        failed = [e for e in its if e and e.status in ("FAILED", "REFUSED")]
        if len(failed) == len(its):
            reasons = dict.fromkeys(printable(e.reason) for e in failed if e.reason)
            why = listed(list(reasons), 1)
            yield f"every run of {variant} failed: {why or 'for no reason that is known'}"
        else:
            unseen.append(variant)
    if unseen:
        yield f"no run is finished yet of {listed(unseen, MOST_UNSEEN)}"


def _recorded(outputs: Path) -> list[str]:
    """The ids of all runs."""
    folder = run_dirs.folder(outputs)
    return [name for name in os.listdir(folder) if os.path.lexists(f"{folder}/{name}/run.json")]


def _read(outputs: Path, ids: Sequence[str]) -> list[Result]:
    """The runs of which it is known what they are runs of."""
    return [run for run in results.read_all(outputs, ids) if run.settings]


def _lost(ids: Iterable[str], found: Iterable[Result]) -> list[str]:
    """Which runs' files are missing or damaged."""
    lost = sorted(set(ids) - {run.run for run in found})
    number = counted(len(lost), "run")
    which = listed([printable(run) for run in lost])
    return [f"{number} left out: missing or damaged ({which})"] if lost else []


def _damage(error: Exception) -> str:
    return f"jobs.jsonl can't be read ({printable(str(error).splitlines()[0])})"


def _by_standing(sweep: Path) -> list[Ended]:
    """How the jobs ended, as far as their runs tell."""
    states = {state: status for status, state in sweep_status.ENDED.items()}
    told = enumerate(sweep_status.read(sweep).jobs)
    return [
        Ended(number, job.variant, states[job.state], job.run)
        for number, job in told
        if job.state in states
    ]


def _unfinished(found: Iterable[Result]) -> list[str]:
    states = Counter(run.status for run in found if run.status != "FINISHED")
    return [
        f"{counted(number, 'run')} left out: {status.lower()}"
        for status, number in sorted(states.items())
    ]


def apart(run: Result) -> str:
    """Why a run's numbers are of no one spec; empty if they are."""
    if "recipe.resumed_from" in run.tags:
        return "went on from another run's checkpoint"
    if run.tags.get("recipe.fingerprint") == "mixed":
        return "was taken up by other code or on another machine"
    return ""


def _set_apart(found: Iterable[Result]) -> list[str]:
    reasons = Counter(filter(None, map(apart, found)))
    return [f"{counted(number, 'run')} left out: {why}" for why, number in sorted(reasons.items())]


def _unlike(runs: Sequence[Result]) -> list[str]:
    """What changes numbers and isn't a setting, where the runs differ in it."""
    cautions = []
    for key, what in (
        ("recipe.device", "devices or numbers of threads"),
        ("version.torch", "versions of torch"),
        ("version.recipe", "versions of recipe"),
    ):
        if len(seen := sorted({run.tags.get(key, "unknown") for run in runs})) > 1:
            cautions.append(f"the runs are of different {what}: {listed(seen)}")
    return cautions
