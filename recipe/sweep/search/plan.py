"""A search as a sweep: what its sweep.json says, when it is done, what is shown at first."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from recipe.config.compose import Job
from recipe.formatting import counted, listed
from recipe.runner.recorder import Status
from recipe.store import sweep_jobs
from recipe.sweep.plan import SEEDS_TRIED, Planned
from recipe.sweep.search import dimension, outcome
from recipe.sweep.search.arguments import Asked
from recipe.sweep.search.dimension import Dimension
from recipe.sweep.search.study import Study

AT_ANY_TIME = ("workers", "basic")
"""The launchers that can be given a job whenever they have room for one."""

MOST_TRIED = 20
"""Jobs of which the parts are made before a search starts, if none can be."""


@dataclass(frozen=True)
class Searched(Planned):
    """Its jobs are planned while it goes on."""

    keeps: ClassVar[Collection[str]] = ("planned", "variants", "trials", "jobs")

    @property
    def digest(self) -> str:
        search = {k: v for k, v in self.about["search"].items() if k not in ("trials", "batch")}
        what = (search, self.about["seeds"], sorted(self.about["fixed"]))
        return hashlib.sha256(repr(what).encode()).hexdigest()

    @property
    def tried(self) -> Sequence[Job]:
        """The ends of every dimension, one dimension at a time, and its middle; the last of every
        dimension; the first of every dimension with other seeds. None if these are many."""
        dimensions, seeds = dimension.of(self.about), self.about["seeds"]
        firsts = {d.key: d.ends[0] for d in dimensions}
        points = [firsts, {d.key: d.ends[-1] for d in dimensions}]
        points.append({d.key: d.middle for d in dimensions})
        points += [{**firsts, d.key: text} for d in dimensions for text in d.ends[1:]]
        swept = [(*point.values(), seeds[0]) for point in points]
        swept += [(*firsts.values(), seed) for seed in seeds[1:SEEDS_TRIED]]
        if len(swept) > MOST_TRIED:
            return []
        return [Job((*self.about["fixed"], *texts), texts) for texts in dict.fromkeys(swept)]

    def is_done(self, about: Mapping[str, Any]) -> bool:
        """More trials of the same search can be asked for later."""
        wanted = self.about["search"]["trials"]
        return super().is_done(about) and about.get("search", {}).get("trials", 0) >= wanted

    def open(self, sweep: Path) -> None:
        Study.begun(sweep)

    def status(self, sweep: Path) -> Status:
        return "FINISHED" if outcome.is_whole(sweep) else "FAILED"

    def note(self, sweep: Path) -> str:
        return f"{outcome.markdown(sweep)}\n{sweep_jobs.markdown(sweep)}"


def of(asked: Asked) -> Searched:
    settings, seeds = asked.settings, [text.removeprefix("seed=") for text in asked.seeds]
    words = ["search", *(d.typed for d in asked.dimensions), *_shortly(seeds)]
    return Searched(
        " ".join(words),
        asked.first,
        [],
        {
            "search": {**asdict(settings), "dimensions": list(map(asdict, asked.dimensions))},
            "swept": sorted({"seed", *(d.key for d in asked.dimensions)}),
            "seeds": list(asked.seeds),
            "fixed": list(asked.fixed),
            "jobs": settings.trials * len(seeds),
            "trials": [],
            "variants": [],
        },
    )


def show(asked: Asked, console: Console) -> None:
    """What is going to be run."""
    settings, seeds = asked.settings, [text.removeprefix("seed=") for text in asked.seeds]
    better = "more" if settings.more_is_better else "less"
    trials = counted(settings.trials, "trial")
    title = f"Search: {trials} by {settings.metric} ({better} is better)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("setting", "from", "how"):
        table.add_column(column, overflow="fold")
    for each in asked.dimensions:
        table.add_row(each.key, *_told(each))
    console.print(table)
    jobs_ = counted(settings.trials * len(seeds), "run")
    times = counted(len(seeds), "seed")
    each_ = f"each trial for {times}, of which the mean counts (seed {listed(seeds, 10)})"
    console.print(f"Jobs      at most {jobs_}: {each_}", soft_wrap=True)
    drawn = _sampler(settings.sampler, settings.startup)
    if asked.launcher not in AT_ANY_TIME and settings.batch > 1:
        drawn += f"; {settings.batch} jobs are drawn and handed out together, before any has ended"
    console.print(f"Sampler   {drawn}", soft_wrap=True)
    if settings.pruner == "median":
        after = f"after {counted(settings.startup, 'whole trial')} and "
        after += counted(settings.warmup, "epoch")
        told = f"median: a trial's first seed ends where it is worse than half of them, {after}"
        console.print(f"Pruner    {told}", soft_wrap=True)


def _sampler(name: str, startup: int) -> str:
    return f"tpe, after {startup} at random" if name == "tpe" else "random"


def _told(each: Dimension) -> tuple[str, str]:
    if each.options:
        return ", ".join(each.options), "one of them"
    kind = "whole numbers" if each.is_whole else "numbers"
    step = f" in steps of {each.step:g}" if each.step not in (None, 1) else ""
    return f"{each.low:g} to {each.high:g}", f"{kind}{step}{', by ratios' if each.log else ''}"


def _shortly(seeds: Sequence[str]) -> list[str]:
    return [f"seed={','.join(seeds)}"] if len(seeds) > 1 else []
