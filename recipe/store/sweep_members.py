"""The jobs of a recorded sweep, and the runs that belong to them.

Only those runs are looked at that were written to since the sweep began, and most of them for its
id alone, however many are recorded.
"""

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
from recipe.formatting import printable
from recipe.store import run_dirs
from recipe.store.run_dirs import Info
from recipe.store.run_progress import parameters
from recipe.store.sweep_jobs import Ended

CLOCKS = 60
"""Seconds by which the clock of a disk may be behind."""


@dataclass(frozen=True)
class Job:
    """A job that was planned."""

    swept: Sequence[str]
    own: str | None = None
    """What an ablation calls its variant."""

    @property
    def variant(self) -> str:
        without = [text for text in self.swept if not text.startswith("seed=")]
        return " ".join(without) if self.own is None else self.own

    @property
    def seed(self) -> str:
        seeds = [text.partition("=")[2] for text in self.swept if text.startswith("seed=")]
        return seeds[-1] if seeds else ""

    @property
    def names(self) -> set[str]:
        """Those that its run may have."""
        seeds = [text for text in self.swept if text.startswith("seed=")]
        return {" ".join(self.swept), " ".join([self.variant, *seeds])}


def planned(about: Mapping[str, Any], ended: Mapping[int, Ended]) -> dict[int, Job]:
    """The jobs by number; of a sweep that didn't note them, those that ended."""
    noted, variants = about.get("planned"), texts_in(about.get("variants"))
    if not isinstance(noted, list):
        noted = {number: _texts_of(each.name) for number, each in ended.items()}
    numbered = noted if isinstance(noted, dict) else dict(enumerate(noted))
    found = {}
    for number, texts in numbered.items():
        own = variants[number] if number < len(variants) else None
        found[number] = Job(texts_in(texts), own)
    return found


def add_unplanned(planned: dict[int, Job], names: Sequence[str]) -> None:
    """Adds the jobs of these names, of a sweep that didn't note what was planned."""
    known = {name for job in planned.values() for name in job.names}
    for name in dict.fromkeys(names):
        if name not in known:
            planned[max(planned, default=-1) + 1] = Job(_texts_of(name))


def _texts_of(name: str) -> list[str]:
    """What was swept, from a job's name: key=value, key=value; a value may hold spaces."""
    return re.split(r" (?=[\w.+~@/-]+=)", name)


def texts_in(value: object) -> list[str]:
    return list(map(str, value)) if isinstance(value, list) else []


def recorded(sweep: Path) -> Iterator[tuple[Path, Info]]:
    """Its runs, in the order in which they began. One that was recorded before and taken up by the
    sweep was written to since, as all others."""
    began = 0.0  # if somebody renamed it
    with contextlib.suppress(ValueError, OverflowError):
        began = datetime.strptime(sweep.name[:15], "%Y%m%d-%H%M%S").timestamp() - CLOCKS
    folder = run_dirs.folder(sweep.parent.parent)
    with contextlib.suppress(FileNotFoundError):
        for name in sorted(os.listdir(folder)):
            path = folder / name / "run.json"
            with contextlib.suppress(OSError, SpecError):
                if path.stat().st_mtime < began:
                    continue
                with safe_yaml.open_file(path) as file:
                    if sweep.name.encode() not in file.read():
                        continue
                info = run_dirs.read(path.parent, "run")
                if info.sweep == sweep.name:
                    yield path.parent, info


def by_job(
    there: Iterable[tuple[Path, Info]], planned: Mapping[int, Job]
) -> tuple[dict[int, tuple[Path, Info]], list[str]]:
    """The runs by the job they belong to, the latest where there are several; and the ids
    of those of which that isn't known."""
    names = {name: number for number, job in planned.items() for name in job.names}
    found: dict[int, tuple[Path, Info]] = {}
    unknown = []
    for run, info in there:
        number = names.get(info.name)
        if number is None:
            number = next(iter(planned)) if len(planned) == 1 else _alike(run, planned)
        if number is None:
            unknown.append(printable(run.name))
        elif number not in found or not is_running(found[number]):
            found[number] = run, info
    return found, unknown


def is_running(found: tuple[Path, Info]) -> bool:
    return found[1].status == "RUNNING" and run_dirs.alive(found[0])


def _alike(run: Path, planned: Mapping[int, Job]) -> int | None:
    """The job of these settings: a run that was recorded before has a name of its own."""
    settings = parameters(run)
    alike = [
        number
        for number, job in planned.items()
        if all(settings.get(text.partition("=")[0]) == text.partition("=")[2] for text in job.swept)
    ]
    return alike[0] if len(alike) == 1 else None
