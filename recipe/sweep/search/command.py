"""`search`: shows the plan, runs the trials and prints the outcome."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from recipe.compare.metric_unit import MetricUnit
from recipe.formatting import format_list, pluralize
from recipe.sweep import plugins
from recipe.sweep.multirun import SweepRequest, confirm, run_plan
from recipe.sweep.plan import format_disk_estimate
from recipe.sweep.search import outcome
from recipe.sweep.search.arguments import SearchArguments
from recipe.sweep.search.dimension import Dimension
from recipe.sweep.search.plan import plan_search
from recipe.sweep.search.sweeper import SearchSweeper

STREAMING_LAUNCHERS = ("workers", "basic")
"""Options of hydra/launcher that run a job whenever a worker is free."""


def run_search(arguments: SearchArguments, request: SweepRequest) -> int:
    plan, console = plan_search(arguments), request.console
    print_plan(arguments, console)
    if need := format_disk_estimate(plan.first_spec, plan.extra_metadata["jobs"]):
        console.print(f"Disk      at most {need.removeprefix('about ')}", soft_wrap=True)
    if not arguments.yes and not confirm():
        return 0
    plugins.register_plugin(SearchSweeper)
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
