"""What an ablation is going to run, shown before it does, and whether to go on with it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from recipe import output
from recipe.compare.finding import SIGNIFICANCE_LEVEL
from recipe.config import compose
from recipe.config.spec import RunSpec
from recipe.errors import Problems, RecipeError
from recipe.evidence.multiple_testing import min_seeds_for_significance
from recipe.formatting import escape_unprintable, format_duration, format_list, pluralize
from recipe.store import sweep_record
from recipe.store.results import RunResult, read_results
from recipe.sweep import disk_estimate
from recipe.sweep.ablation import variants
from recipe.sweep.ablation.plan import AblationPlan
from recipe.sweep.ablation.variants import Variant
from recipe.sweep.launchers import forkserver, gpu_assignment, pool_launcher
from recipe.sweep.plan import is_hydra_override

TRACKING_GROUP = "tracking"
"""The group whose settings only say where the record goes."""


@dataclass(frozen=True)
class Forecast:
    """What recorded runs tell of an ablation."""

    ablation: AblationPlan
    recorded_counts: dict[Variant, int]
    """For how many of the seeds a variant's run is recorded already."""
    remaining_seconds: float | None
    """What is left takes, one run after another; None: nothing recorded tells."""
    source: str
    """The runs that this was taken from."""

    @property
    def n_jobs(self) -> int:
        return len(self.ablation.specs) * len(self.ablation.arguments.seed_overrides)

    @property
    def n_remaining(self) -> int:
        return self.n_jobs - sum(self.recorded_counts.values())


def make_forecast(ablation: AblationPlan) -> Forecast:
    """Reads the recorded runs of the folder that the ablation's runs will go to."""
    specs = ablation.specs
    first = next(iter(specs.values()))
    done = [each for each in read_results(first.output_path) if each.status == "FINISHED"]
    seeds = ablation.arguments.seed_overrides
    there = _find_recorded_runs(ablation, done)
    exact, seconds = 0, 0.0
    alike = [
        each.seconds
        for each in done
        if _select_duration_settings(each.settings)
        == _select_duration_settings(_get_comparable_settings(first))
    ]
    usual = _mean_known(alike)
    for variant, spec in specs.items():
        wanted, ids = _get_comparable_settings(spec), there[variant]
        same = [
            each
            for each in done
            if each.run in ids or _drop_tracking_settings(each.settings) == wanted
        ]
        took = [each.seconds for each in same]
        exact += len([each for each in took if each is not None])
        seconds += (_mean_known(took) or usual or 0.0) * (len(seeds) - len(ids))
    recorded = {variant: len(ids) for variant, ids in there.items()}
    if usual is None:
        return Forecast(ablation, recorded, None, "")
    known = len([each for each in alike if each is not None])
    source = f"{pluralize(known, 'recorded run')} of this model, data and epochs"
    return Forecast(ablation, recorded, seconds, f"{source}, {exact} of them of these variants")


def _find_recorded_runs(
    ablation: AblationPlan, finished_results: Sequence[RunResult]
) -> dict[Variant, list[str]]:
    """The finished runs, among those `done`, that the ablation's jobs would find, by their
    fingerprints; where other machines run the jobs, those of the same settings and seeds."""
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
            [ablation.make_job(variant, seed).to_spec() for variant in found] for seed in wanted
        ]
        settings = compose.compose_config(requested.fixed_overrides).hydra.launcher
    planned = ablation.sweep_plan
    unfinished = planned.find_unfinished(first.output_path / "sweeps")
    kept = sweep_record.read_record(unfinished).get("threads") if unfinished else None
    threads = pool_launcher.predict_threads(settings, [first.device], len(planned.jobs), kept)
    question = functools.partial(_find_finished_runs, threads=threads)
    for of_seed in forkserver.call_in_helper(
        question, specs, fresh_process=not gpu_assignment.is_cpu_device(first.device)
    ):
        for variant, run in zip(found, of_seed, strict=True):
            found[variant] += [run] if run else []
    return found


def _find_matching_runs(
    spec: RunSpec, seeds: Sequence[str], finished_results: Sequence[RunResult]
) -> list[str]:
    """The latest run of the spec's settings with each of the seeds."""
    wanted = _get_comparable_settings(spec)
    same = {
        f"seed={each.seed}": each.run
        for each in finished_results
        if _drop_tracking_settings(each.settings) == wanted
    }
    return [same[seed] for seed in seeds if seed in same]


def _find_finished_runs(
    specs_by_seed: Sequence[Sequence[RunSpec]], *, threads: int
) -> list[list[str]]:
    """The finished runs of the specs' fingerprints, as a job asks for them; empty where there is
    none. Those of a seed have their data in common, so one of them is built."""
    import torch

    from recipe.runner import earlier_runs, fingerprint, prepare

    found = []
    for specs in specs_by_seed:
        with prepare.preserve_environment():
            try:
                run = prepare.prepare_run(specs[0], Problems())
                torch.set_num_threads(threads)
                ids = [fingerprint.compute(spec, run) for spec in specs]
            except RecipeError:  # the jobs say so, each
                ids = []
        ended = [
            earlier_runs.read_earlier_runs(specs[0].output_path, each).finished_run_dir
            for each in ids
        ]
        found.append([run.name if run else "" for run in ended] or [""] * len(specs))
    return found


def print_forecast(forecast: Forecast, console: Console) -> None:
    requested = forecast.ablation.arguments
    seeds = [seed.removeprefix("seed=") for seed in requested.seed_overrides]
    title = f"Plan {requested.plan}: {pluralize(len(forecast.recorded_counts), 'variant')}"
    fixed = [text for text in requested.fixed_overrides if not is_hydra_override(text)]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("variant", "overrides", "recorded"):
        table.add_column(column, overflow="fold")
    for variant, number in forecast.recorded_counts.items():
        texts = " ".join(variants.make_overrides(variant, requested.tricks))
        table.add_row(
            variants.format_variant(variant), texts, f"{number} of {pluralize(len(seeds), 'seed')}"
        )
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
    if need := disk_estimate.format_disk_estimate(first, forecast.n_remaining):
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


def confirm() -> bool:
    """Asks, where a person is there to answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    while True:
        try:
            answer = input("Proceed? [Y/n] ").strip().lower()
        except EOFError:
            output.print_text("\n")
            return False
        if answer in ("", "y", "yes"):
            return True
        if answer in ("n", "no"):
            return False


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


def _get_comparable_settings(spec: RunSpec) -> dict[str, str]:
    """What a run of this spec records, less its seed and where it is recorded."""
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
    """What most decides how long a run takes."""
    deciding = ("model", "data", "epochs")
    return {key: value for key, value in settings.items() if key.split(".")[0] in deciding}


def _mean_known(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
