"""What is recorded of an ablation before it starts, and how long the rest will take."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from recipe.config import compose
from recipe.config.spec import RunSpec
from recipe.formatting import escape_unprintable, pluralize
from recipe.store import sweep_record
from recipe.store.results import RunResult, read_results
from recipe.sweep.ablation.plan import AblationPlan
from recipe.sweep.ablation.variants import Variant
from recipe.sweep.launchers import forkserver, gpu_assignment, pool_launcher
from recipe.sweep.launchers.forkserver import TORCH_HELPER

TRACKING_GROUP = "tracking"


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
            [ablation.make_job(variant, seed).to_spec() for variant in found] for seed in wanted
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
