"""`ablate`: shows what is recorded and how long the rest will take, runs it, and compares."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from recipe.compare.command import compare
from recipe.compare.finding import SIGNIFICANCE_LEVEL
from recipe.config import compose
from recipe.config.spec import RunSpec
from recipe.errors import SpecError
from recipe.evidence.multiple_testing import min_seeds_for_significance
from recipe.formatting import escape_unprintable, format_duration, format_list, pluralize
from recipe.store import sweep_record
from recipe.store.results import RunResult, read_results
from recipe.sweep.ablation import variants
from recipe.sweep.ablation.plan import AblationPlan, make_job
from recipe.sweep.ablation.variants import Variant
from recipe.sweep.launchers import forkserver, gpu_assignment, pool_launcher
from recipe.sweep.launchers.forkserver import TORCH_HELPER
from recipe.sweep.multirun import SweepRequest, confirm, run_plan
from recipe.sweep.plan import format_disk_estimate
from recipe.sweep.sweeper_arguments import is_hydra_override

TRACKING_GROUP = "tracking"


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


@dataclass(frozen=True)
class Forecast:
    ablation: AblationPlan
    recorded_counts: dict[Variant, int]
    """The number of seeds for which a variant's run is recorded already."""
    remaining_seconds: float | None
    """For the remaining runs one after another; None if no recorded run is comparable."""
    source: str
    """The runs that the estimate is based on."""

    @property
    def n_jobs(self) -> int:
        return len(self.ablation.specs) * len(self.ablation.arguments.seed_overrides)

    @property
    def n_remaining(self) -> int:
        return self.n_jobs - sum(self.recorded_counts.values())


def make_forecast(ablation: AblationPlan) -> Forecast:
    """Reads the runs recorded where the ablation's runs will be stored."""
    specs = ablation.specs
    first = next(iter(specs.values()))
    done = [each for each in read_results(first.output_path) if each.status == "FINISHED"]
    recorded = _find_recorded_runs(ablation, done)
    counts = {variant: len(runs) for variant, runs in recorded.items()}
    duration_settings = _select_duration_settings(_get_comparable_settings(first))
    alike = [
        each.seconds
        for each in done
        if each.seconds is not None
        and _select_duration_settings(each.settings) == duration_settings
    ]
    if not alike:
        return Forecast(ablation, counts, None, "")
    n_exact, seconds = 0, 0.0
    for variant, spec in specs.items():
        wanted = _get_comparable_settings(spec)
        exact = [
            each.seconds
            for each in done
            if each.seconds is not None
            and (each.run in recorded[variant] or _drop_tracking_settings(each.settings) == wanted)
        ]
        n_exact += len(exact)
        n_seeds = len(ablation.arguments.seed_overrides)
        seconds += statistics.fmean(exact or alike) * (n_seeds - counts[variant])
    source = (
        f"{pluralize(len(alike), 'recorded run')} of this model, data and epochs, {n_exact} of "
        "them of these variants"
    )
    return Forecast(ablation, counts, seconds, source)


def _find_recorded_runs(
    ablation: AblationPlan, finished_results: Sequence[RunResult]
) -> dict[Variant, list[str]]:
    """The finished runs that the jobs would find by their fingerprints; if other machines run the
    jobs, those with the same settings and seeds."""
    requested, found = ablation.arguments, {variant: list[str]() for variant in ablation.specs}
    first = next(iter(ablation.specs.values()))
    known = {f"seed={each.seed}" for each in finished_results}
    wanted = [seed for seed in requested.seed_overrides if seed in known]
    if first.again or not wanted:
        return found
    with compose.composition_context():
        if not pool_launcher.is_local_launcher(requested.fixed_overrides):
            return {
                v: _find_matching_runs(spec, wanted, finished_results)
                for v, spec in ablation.specs.items()
            }
        specs = [
            [make_job(requested, variant, seed).to_spec() for variant in found] for seed in wanted
        ]
        launcher_settings = compose.compose_config(requested.fixed_overrides).hydra.launcher
    plan = ablation.sweep_plan
    unfinished = plan.find_unfinished(first.output_path / "sweeps")
    stored = sweep_record.read_record(unfinished).get("threads") if unfinished else None
    threads = pool_launcher.predict_threads(
        launcher_settings, [first.device], len(plan.jobs), stored
    )
    is_on_cpu = gpu_assignment.is_cpu_device(first.device)
    call = TORCH_HELPER.call if is_on_cpu else forkserver.call_in_fresh_process
    for of_seed in call("recipe.sweep.preflight:find_finished_runs", specs, threads):
        for variant, run in zip(found, of_seed, strict=True):
            found[variant] += [run] if run else []
    return found


def _find_matching_runs(
    spec: RunSpec, seeds: Sequence[str], finished_results: Sequence[RunResult]
) -> list[str]:
    """The latest run with the settings of the spec and each of the seeds."""
    wanted = _get_comparable_settings(spec)
    same = {
        f"seed={each.seed}": each.run
        for each in finished_results
        if _drop_tracking_settings(each.settings) == wanted
    }
    return [same[seed] for seed in seeds if seed in same]


def _get_comparable_settings(spec: RunSpec) -> dict[str, str]:
    """The settings that a run of this spec records, without its seed and tracking."""
    return _drop_tracking_settings(
        {
            key: escape_unprintable(str(value))
            for key, value in spec.to_parameters().items()
            if key != "seed"
        }
    )


def _drop_tracking_settings(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: v for key, v in settings.items() if key.split(".")[0] != TRACKING_GROUP}


def _select_duration_settings(settings: Mapping[str, str]) -> dict[str, str]:
    """The settings with the largest effect on how long a run takes."""
    roots = ("model", "data", "epochs")
    return {key: value for key, value in settings.items() if key.split(".")[0] in roots}


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
