"""The jobs of a recorded sweep, and the runs that belong to them."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any

from recipe.config import safe_yaml
from recipe.errors import SpecError
from recipe.formatting import escape_unprintable
from recipe.store import run_dirs
from recipe.store.run_dirs import RunInfo
from recipe.store.run_record import RunRecord
from recipe.store.sweep_jobs import JobResult

CLOCK_TOLERANCE_SECONDS = 60  # of the file system's clock


@dataclass(frozen=True)
class PlannedJob:
    swept: Sequence[str]
    variant_name: str | None = None
    """The name of the variant in an ablation."""

    @property
    def variant(self) -> str:
        without = [text for text in self.swept if not text.startswith("seed=")]
        return " ".join(without) if self.variant_name is None else self.variant_name

    @property
    def seed(self) -> str:
        seeds = [text.partition("=")[2] for text in self.swept if text.startswith("seed=")]
        return seeds[-1] if seeds else ""

    @property
    def run_names(self) -> set[str]:
        """The possible names of its run."""
        seeds = [text for text in self.swept if text.startswith("seed=")]
        return {" ".join(self.swept), " ".join([self.variant, *seeds])}


def read_planned_jobs(
    about: Mapping[str, Any], ended: Mapping[int, JobResult]
) -> dict[int, PlannedJob]:
    """Returns the jobs by number; only ended ones for a sweep that didn't record its plan."""
    noted, variants = about.get("planned"), to_strings(about.get("variants"))
    if not isinstance(noted, list):
        noted = {number: _split_job_name(each.name) for number, each in ended.items()}
    numbered = noted if isinstance(noted, dict) else dict(enumerate(noted))
    found = {}
    for number, texts in numbered.items():
        own = variants[number] if number < len(variants) else None
        found[number] = PlannedJob(to_strings(texts), own)
    return found


def add_jobs_by_name(planned: dict[int, PlannedJob], names: Sequence[str]) -> None:
    """Adds jobs with these names to those of a sweep that didn't record its plan."""
    known = {name for job in planned.values() for name in job.run_names}
    for name in dict.fromkeys(names):
        if name not in known:
            planned[max(planned, default=-1) + 1] = PlannedJob(_split_job_name(name))


def _split_job_name(name: str) -> list[str]:
    """Splits a job's name into its key=value parts; values may contain spaces."""
    return re.split(r" (?=[\w.+~@/-]+=)", name)


def to_strings(value: object) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else []


def find_runs(sweep_dir: Path) -> Iterator[tuple[Path, RunInfo]]:
    """Returns a sweep's runs in the order of their starts. Only runs that were modified since the
    sweep started are read, and fully only if they contain its id."""
    began = 0.0  # for a renamed folder
    with contextlib.suppress(ValueError, OverflowError):
        began = (
            datetime.strptime(sweep_dir.name[:15], "%Y%m%d-%H%M%S").timestamp()
            - CLOCK_TOLERANCE_SECONDS
        )
    folder = run_dirs.get_runs_dir(sweep_dir.parent.parent)
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder)):
            path = folder / name / "run.json"
            with contextlib.suppress(OSError, SpecError):
                if path.stat().st_mtime < began:
                    continue
                with safe_yaml.open_regular_file(path) as file:
                    if sweep_dir.name.encode() not in file.read():
                        continue
                info = run_dirs.read_info_file(path.parent, "run")
                if info.sweep == sweep_dir.name:
                    yield path.parent, info


def assign_to_jobs(
    there: Iterable[tuple[Path, RunInfo]], planned: Mapping[int, PlannedJob]
) -> tuple[dict[int, tuple[Path, RunInfo]], list[str]]:
    """The runs by the job they belong to, the latest where there are several; and the ids
    of those of which that isn't known."""
    names = {name: number for number, job in planned.items() for name in job.run_names}
    found: dict[int, tuple[Path, RunInfo]] = {}
    unknown = []
    for run, info in there:
        number = names.get(info.name)
        if number is None:
            number = (
                next(iter(planned)) if len(planned) == 1 else _find_job_by_settings(run, planned)
            )
        if number is None:
            unknown.append(escape_unprintable(run.name))
        elif number not in found or not is_running(found[number]):
            found[number] = run, info
    return found, unknown


def is_running(found: tuple[Path, RunInfo]) -> bool:
    return found[1].status == "RUNNING" and run_dirs.is_running(found[0])


def _find_job_by_settings(run_dir: Path, planned: Mapping[int, PlannedJob]) -> int | None:
    """The job with the run's settings; a reused run has another name."""
    recorded = RunRecord(run_dir).merge_events("parameters")
    settings = {key: str(value) for key, value in recorded.items()}
    alike = [
        number
        for number, job in planned.items()
        if all(settings.get(text.partition("=")[0]) == text.partition("=")[2] for text in job.swept)
    ]
    return alike[0] if len(alike) == 1 else None
