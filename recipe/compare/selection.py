"""Which recorded runs are compared, and which of them are left out."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from recipe import results
from recipe.errors import SpecError
from recipe.results import Result
from recipe.sweep import find, jobs, parent
from recipe.wording import counted, listed, printable

ALL = "all"
"""Given as the sweep: every recorded run."""

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


def _climb(about: Mapping[str, Any]) -> Climb | None:
    path = about.get("path")
    if about.get("plan") != "greedy" or not isinstance(path, list):
        return None
    kept = [printable(str(at.get("variant", ""))) for at in path if isinstance(at, dict)]
    stopped, by = str(about.get("stopped", "before its end")), str(about.get("by", EARLIER))
    return Climb(kept, printable(stopped), printable(by)) if kept else None


def select(outputs: Path, wanted: str, metric: str) -> Selection:
    """The runs of a sweep; without one those of the newest sweep, or all if there is none.

    Raises SpecError if there is no such sweep, or no finished run that has the metric.
    """
    there = find.folders(outputs)
    sweep = None
    if wanted and wanted != ALL:
        sweep = find.find(outputs, wanted)
    elif not wanted and there:
        sweep = there[-1]
    if sweep is None:
        found, title = results.read_all(outputs), f"All runs in {printable(outputs)}"
        cautions: list[str] = []
    else:
        found, cautions = _of_sweep(outputs, sweep)
        title = printable(str(parent.read(sweep).get("name") or sweep.name))
    cautions += _unfinished(found)
    kept = [run for run in found if run.status == "FINISHED"]
    cautions += _set_apart(kept)
    kept = [run for run in kept if not _apart(run)]
    having = [run for run in kept if math.isfinite(run.last.get(metric, math.nan))]
    if len(having) < len(kept):
        number = counted(len(kept) - len(having), "finished run")
        cautions.append(f"{number} left out: without a finite {metric}")
    if not having:
        where = sweep.name if sweep else printable(outputs)
        known = sorted(
            {key for run in kept for key in run.last if key.startswith(("val/", "best"))}
        )
        hint = f"metric may be {listed(known, 6)}" if known else "give another --sweep, or all"
        raise SpecError(f"compare: no finished run of {where} has {metric}; {hint}")
    climb = _climb(parent.read(sweep)) if sweep else None
    return Selection(title, sweep, having, [*cautions, *_unlike(having)], climb)


def _of_sweep(outputs: Path, sweep: Path) -> tuple[list[Result], list[str]]:
    """Its runs, those among them that were recorded before; and what is missing."""
    try:
        ended = jobs.read(sweep)
    except (OSError, ValueError, TypeError) as error:
        raise SpecError(f"sweep: {printable(sweep)} is damaged ({error}); use another") from error
    ids = [each.run for each in ended if each.run]
    found = results.read_all(outputs, ids)
    cautions = []
    if lost := len(set(ids)) - len(found):
        cautions.append(f"{counted(lost, 'run')} of the sweep can't be read any more")
    total = parent.read(sweep).get("jobs")
    failed = Counter(each.status for each in ended if each.status != "FINISHED")
    for status, number in sorted(failed.items()):
        cautions.append(f"{counted(number, 'job')} left out: {status.lower()}")
    if isinstance(total, int) and len(ended) < total:
        cautions.append(f"{counted(total - len(ended), 'job')} of {total} not ended yet")
    return found, cautions


def _unfinished(found: Iterable[Result]) -> list[str]:
    states = Counter(run.status for run in found if run.status != "FINISHED")
    return [
        f"{counted(number, 'run')} left out: {status.lower()}"
        for status, number in sorted(states.items())
    ]


def _apart(run: Result) -> str:
    """Why a run's numbers are of no one spec; empty if they are."""
    if "recipe.resumed_from" in run.tags:
        return "went on from another run's checkpoint"
    if run.tags.get("recipe.fingerprint") == "mixed":
        return "was taken up by other code or on another machine"
    return ""


def _set_apart(found: Iterable[Result]) -> list[str]:
    reasons = Counter(filter(None, map(_apart, found)))
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
