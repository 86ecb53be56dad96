"""`ablate`: shows the plan, runs the jobs and prints their comparison."""

from __future__ import annotations

from rich.console import Console
from rich.table import Table

from recipe.compare.command import compare
from recipe.compare.finding import SIGNIFICANCE_LEVEL
from recipe.errors import SpecError
from recipe.evidence.multiple_testing import min_seeds_for_significance
from recipe.formatting import escape_unprintable, format_duration, format_list, pluralize
from recipe.sweep.ablation import variants
from recipe.sweep.ablation.forecast import Forecast, make_forecast
from recipe.sweep.ablation.plan import AblationPlan
from recipe.sweep.multirun import SweepRequest, confirm, run_plan
from recipe.sweep.plan import format_disk_estimate
from recipe.sweep.sweeper_arguments import is_hydra_override


def run_ablation(plan: AblationPlan, request: SweepRequest) -> int:
    console = request.console
    print_forecast(make_forecast(plan), console)
    if not plan.arguments.yes and not confirm():
        return 0
    status, sweep_dir = run_plan(plan.sweep_plan, request)
    try:
        compare([sweep_dir.name, f"output_dir={sweep_dir.parent.parent}"], console)
    except SpecError as error:
        for problem in error.problems:
            console.print(problem, soft_wrap=True)
    return status


def print_forecast(forecast: Forecast, console: Console) -> None:
    requested = forecast.ablation.arguments
    seeds = [seed.removeprefix("seed=") for seed in requested.seed_overrides]
    title = f"Plan {requested.plan}: {pluralize(len(forecast.recorded_counts), 'variant')}"
    fixed = [text for text in requested.fixed_overrides if not is_hydra_override(text)]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("variant", "overrides", "recorded"):
        table.add_column(column, overflow="fold")
    for variant, count in forecast.recorded_counts.items():
        texts = " ".join(variants.make_overrides(variant, requested.tricks))
        recorded = f"{count} of {pluralize(len(seeds), 'seed')}"
        table.add_row(variants.format_variant(variant), texts, recorded)
    console.print(table)
    for line in forecast.ablation.skip_reasons:
        console.print(f"Left out  {line}", soft_wrap=True)
    message = f"{pluralize(forecast.n_jobs, 'run')}, seed by seed (seed {format_list(seeds, 10)})"
    if fixed:
        console.print(f"In all    {escape_unprintable(' '.join(fixed))}", soft_wrap=True)
    console.print(f"Jobs      {message}", soft_wrap=True)
    console.print(f"Recorded  {forecast.n_jobs - forecast.n_remaining}", soft_wrap=True)
    console.print(f"Time      {_format_time(forecast)}", soft_wrap=True)
    first = next(iter(forecast.ablation.specs.values()))
    if need := format_disk_estimate(first, forecast.n_remaining):
        console.print(f"Disk      {need}", soft_wrap=True)
    needed = min_seeds_for_significance(len(requested.tricks), SIGNIFICANCE_LEVEL)
    if len(seeds) < needed:
        tricks = pluralize(len(requested.tricks), "trick")
        console.print(
            f"Verdicts  take {pluralize(needed, 'seed')} where {tricks} "
            f"{'does' if len(requested.tricks) == 1 else 'do'} something, and {len(seeds)} "
            f"{'is' if len(seeds) == 1 else 'are'} planned (what is recorded isn't run again)",
            style="yellow", soft_wrap=True,
        )  # fmt: skip


def _format_time(forecast: Forecast) -> str:
    if not forecast.n_remaining:
        return "none, all of it is recorded"
    if forecast.remaining_seconds is None:
        return "not known: no finished run of this model, data and epochs is recorded"
    took = format_duration(forecast.remaining_seconds)
    return (
        f"about {took} for {pluralize(forecast.n_remaining, 'run')} one after another "
        f"({forecast.source})"
    )
