"""`search`: the plan of a search as a sweep, and its command."""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, ClassVar

from rich.console import Console
from rich.table import Table

from recipe.compare.metric_unit import MetricUnit
from recipe.config.compose import Job
from recipe.formatting import format_list, pluralize
from recipe.runner.recorder import Status
from recipe.store import sweep_jobs
from recipe.sweep import hydra_plugins
from recipe.sweep.multirun import SweepRequest, confirm, run_plan
from recipe.sweep.plan import MAX_PREFLIGHT_SEEDS, SweepPlan, format_disk_estimate, join_seeds
from recipe.sweep.search import dimension, outcome
from recipe.sweep.search.arguments import SearchArguments
from recipe.sweep.search.dimension import Dimension
from recipe.sweep.search.study import SweepStudy
from recipe.sweep.search.sweeper import SearchSweeper

STREAMING_LAUNCHERS = ("workers", "basic")
"""Options of hydra/launcher that run a job whenever a worker is free."""

MAX_PREFLIGHT_JOBS = 20
"""Jobs whose components are built before a search starts, if none can be built."""


@dataclass(frozen=True)
class SearchPlan(SweepPlan):
    """The jobs are planned while the search runs."""

    preserved_keys: ClassVar[Collection[str]] = ("planned", "variants", "trials", "jobs")

    @property
    def digest(self) -> str:
        """The same for another number of trials."""
        search = {
            k: v for k, v in self.extra_metadata["search"].items() if k not in ("trials", "batch")
        }
        identity = (search, self.extra_metadata["seeds"], sorted(self.extra_metadata["fixed"]))
        return hashlib.sha256(repr(identity).encode()).hexdigest()

    @property
    def preflight_jobs(self) -> Sequence[Job]:
        """All first values, all last ones, and all middle ones; every boundary value of one
        dimension with the first values of the others; all first values with other seeds. None if
        these are more than MAX_PREFLIGHT_JOBS."""
        dimensions = dimension.load_dimensions(self.extra_metadata)
        seeds = self.extra_metadata["seeds"]
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
        """False if it has fewer trials than this plan."""
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
    settings, seeds = arguments.settings, arguments.seed_overrides
    words = ["search", *(d.typed for d in arguments.dimensions)]
    words += [join_seeds(seeds)] if len(seeds) > 1 else []
    return SearchPlan(
        " ".join(words),
        arguments.first_spec,
        [],
        {
            "search": {**asdict(settings), "dimensions": list(map(asdict, arguments.dimensions))},
            "swept": sorted({"seed", *(d.key for d in arguments.dimensions)}),
            "seeds": list(seeds),
            "fixed": list(arguments.fixed_overrides),
            "jobs": settings.trials * len(seeds),
            "trials": [],
            "variants": [],
        },
    )


def run_search(arguments: SearchArguments, request: SweepRequest) -> int:
    plan, console = plan_search(arguments), request.console
    print_plan(arguments, console)
    if need := format_disk_estimate(plan.first_spec, plan.extra_metadata["jobs"]):
        console.print(f"Disk      at most {need.removeprefix('about ')}", soft_wrap=True)
    if not arguments.yes and not confirm():
        return 0
    hydra_plugins.register_plugin(SearchSweeper)
    status, sweep_dir = run_plan(plan, request)
    outcome.print_outcome(sweep_dir, console)
    return status


def print_plan(arguments: SearchArguments, console: Console) -> None:
    settings = arguments.settings
    seeds = [text.removeprefix("seed=") for text in arguments.seed_overrides]
    better = "more" if MetricUnit(settings.metric).direction > 0 else "less"
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
    drawn = "random"
    if settings.sampler == "tpe":
        drawn = f"tpe, after {settings.startup} at random"
    if arguments.launcher not in STREAMING_LAUNCHERS and settings.batch > 1:
        drawn += f"; {settings.batch} jobs are drawn and handed out together, before any has ended"
    console.print(f"Sampler   {drawn}", soft_wrap=True)
    if settings.pruner == "median":
        trials, epochs = (
            pluralize(settings.startup, "completed trial"), pluralize(settings.warmup, "epoch"),
        )  # fmt: skip
        console.print(
            "Pruner    median: a trial's first seed ends where it is worse than half of them, "
            f"after {trials} and {epochs}", soft_wrap=True,
        )  # fmt: skip


def _format_dimension(searched: Dimension) -> tuple[str, str]:
    if searched.options:
        return ", ".join(searched.options), "one of them"
    kind = "whole numbers" if searched.is_integer else "numbers"
    step = f" in steps of {searched.step:g}" if searched.step not in (None, 1) else ""
    by_ratios = ", by ratios" if searched.log else ""
    return f"{searched.low:g} to {searched.high:g}", f"{kind}{step}{by_ratios}"
