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
from recipe.formatting import format_list, pluralize
from recipe.runner.recorder import Status
from recipe.store import sweep_jobs
from recipe.sweep.plan import MAX_PREFLIGHT_SEEDS, SweepPlan
from recipe.sweep.search import dimension, outcome
from recipe.sweep.search.arguments import SearchArguments
from recipe.sweep.search.dimension import Dimension
from recipe.sweep.search.study import SweepStudy

STREAMING_LAUNCHERS = ("workers", "basic")
"""The launchers that can be given a job whenever they have room for one."""

MAX_PREFLIGHT_JOBS = 20
"""Jobs of which the parts are made before a search starts, if none can be."""


@dataclass(frozen=True)
class SearchPlan(SweepPlan):
    """Its jobs are planned while it goes on."""

    preserved_keys: ClassVar[Collection[str]] = ("planned", "variants", "trials", "jobs")

    @property
    def digest(self) -> str:
        search = {
            k: v for k, v in self.extra_metadata["search"].items() if k not in ("trials", "batch")
        }
        what = (search, self.extra_metadata["seeds"], sorted(self.extra_metadata["fixed"]))
        return hashlib.sha256(repr(what).encode()).hexdigest()

    @property
    def preflight_jobs(self) -> Sequence[Job]:
        """The ends of every dimension, one dimension at a time, and its middle; the last of every
        dimension; the first of every dimension with other seeds. None if these are many."""
        dimensions, seeds = (
            dimension.load_dimensions(self.extra_metadata),
            self.extra_metadata["seeds"],
        )
        firsts = {d.key: d.boundary_overrides[0] for d in dimensions}
        points = [firsts, {d.key: d.boundary_overrides[-1] for d in dimensions}]
        points.append({d.key: d.middle_override for d in dimensions})
        points += [{**firsts, d.key: text} for d in dimensions for text in d.boundary_overrides[1:]]
        swept = [(*point.values(), seeds[0]) for point in points]
        swept += [(*firsts.values(), seed) for seed in seeds[1:MAX_PREFLIGHT_SEEDS]]
        if len(swept) > MAX_PREFLIGHT_JOBS:
            return []
        return [
            Job((*self.extra_metadata["fixed"], *texts), texts) for texts in dict.fromkeys(swept)
        ]

    def is_finished(self, metadata: Mapping[str, Any]) -> bool:
        """More trials of the same search can be asked for later."""
        wanted = self.extra_metadata["search"]["trials"]
        return (
            super().is_finished(metadata) and metadata.get("search", {}).get("trials", 0) >= wanted
        )

    def prepare(self, sweep_dir: Path) -> None:
        SweepStudy.load_or_create(sweep_dir)

    def get_final_status(self, sweep_dir: Path) -> Status:
        return "FINISHED" if outcome.is_complete(sweep_dir) else "FAILED"

    def format_summary(self, sweep_dir: Path) -> str:
        return f"{outcome.format_markdown(sweep_dir)}\n{sweep_jobs.format_markdown(sweep_dir)}"


def plan_search(arguments: SearchArguments) -> SearchPlan:
    settings, seeds = (
        arguments.settings,
        [text.removeprefix("seed=") for text in arguments.seed_overrides],
    )
    words = ["search", *(d.typed for d in arguments.dimensions), *_join_seeds(seeds)]
    return SearchPlan(
        " ".join(words),
        arguments.first_spec,
        [],
        {
            "search": {**asdict(settings), "dimensions": list(map(asdict, arguments.dimensions))},
            "swept": sorted({"seed", *(d.key for d in arguments.dimensions)}),
            "seeds": list(arguments.seed_overrides),
            "fixed": list(arguments.fixed_overrides),
            "jobs": settings.trials * len(seeds),
            "trials": [],
            "variants": [],
        },
    )


def print_plan(arguments: SearchArguments, console: Console) -> None:
    """What is going to be run."""
    settings, seeds = (
        arguments.settings,
        [text.removeprefix("seed=") for text in arguments.seed_overrides],
    )
    better = "more" if settings.is_higher_better else "less"
    trials = pluralize(settings.trials, "trial")
    title = f"Search: {trials} by {settings.metric} ({better} is better)"
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("setting", "from", "how"):
        table.add_column(column, overflow="fold")
    for each in arguments.dimensions:
        table.add_row(each.key, *_format_dimension(each))
    console.print(table)
    jobs_ = pluralize(settings.trials * len(seeds), "run")
    times = pluralize(len(seeds), "seed")
    each_ = f"each trial for {times}, of which the mean counts (seed {format_list(seeds, 10)})"
    console.print(f"Jobs      at most {jobs_}: {each_}", soft_wrap=True)
    drawn = _format_sampler(settings.sampler, settings.startup)
    if arguments.launcher not in STREAMING_LAUNCHERS and settings.batch > 1:
        drawn += f"; {settings.batch} jobs are drawn and handed out together, before any has ended"
    console.print(f"Sampler   {drawn}", soft_wrap=True)
    if settings.pruner == "median":
        after = f"after {pluralize(settings.startup, 'completed trial')} and "
        after += pluralize(settings.warmup, "epoch")
        message = f"median: a trial's first seed ends where it is worse than half of them, {after}"
        console.print(f"Pruner    {message}", soft_wrap=True)


def _format_sampler(name: str, startup: int) -> str:
    return f"tpe, after {startup} at random" if name == "tpe" else "random"


def _format_dimension(searched_dimension: Dimension) -> tuple[str, str]:
    if searched_dimension.options:
        return ", ".join(searched_dimension.options), "one of them"
    kind = "whole numbers" if searched_dimension.is_integer else "numbers"
    step = (
        f" in steps of {searched_dimension.step:g}"
        if searched_dimension.step not in (None, 1)
        else ""
    )
    return (
        f"{searched_dimension.low:g} to {searched_dimension.high:g}",
        f"{kind}{step}{', by ratios' if searched_dimension.log else ''}",
    )


def _join_seeds(seeds: Sequence[str]) -> list[str]:
    return [f"seed={','.join(seeds)}"] if len(seeds) > 1 else []
