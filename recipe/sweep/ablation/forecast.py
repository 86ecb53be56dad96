"""What an ablation is going to run, shown before it does, and whether to go on with it."""

from __future__ import annotations

import functools
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from rich.console import Console
from rich.table import Table

from recipe import output
from recipe.compare.finding import LEVEL
from recipe.config import compose
from recipe.config.spec import RunSpec
from recipe.errors import Problems, RecipeError
from recipe.evidence.statistics import least_seeds
from recipe.formatting import counted, duration, listed, printable
from recipe.store import sweep_record
from recipe.store.results import Result, read_all
from recipe.sweep import disk_estimate
from recipe.sweep.ablation import variants
from recipe.sweep.ablation.plan import Ablation
from recipe.sweep.ablation.variants import Variant
from recipe.sweep.launchers import forkserver, gpu_assignment, pool_launcher
from recipe.sweep.plan import is_hydras

ELSEWHERE = "tracking"
"""The group whose settings only say where the record goes."""


@dataclass(frozen=True)
class Forecast:
    """What recorded runs tell of an ablation."""

    ablation: Ablation
    recorded: dict[Variant, int]
    """For how many of the seeds a variant's run is recorded already."""
    seconds: float | None
    """What is left takes, one run after another; None: nothing recorded tells."""
    source: str
    """The runs that this was taken from."""

    @property
    def jobs(self) -> int:
        return len(self.ablation.specs) * len(self.ablation.asked.seeds)

    @property
    def left(self) -> int:
        return self.jobs - sum(self.recorded.values())


def make(ablation: Ablation) -> Forecast:
    """Reads the recorded runs of the folder that the ablation's runs will go to."""
    specs = ablation.specs
    first = next(iter(specs.values()))
    done = [each for each in read_all(first.output_path) if each.status == "FINISHED"]
    seeds = ablation.asked.seeds
    there = _recorded(ablation, done)
    exact, seconds = 0, 0.0
    alike = [each.seconds for each in done if _basis(each.settings) == _basis(_settings(first))]
    usual = _mean(alike)
    for variant, spec in specs.items():
        wanted, ids = _settings(spec), there[variant]
        same = [each for each in done if each.run in ids or _less(each.settings) == wanted]
        took = [each.seconds for each in same]
        exact += len([each for each in took if each is not None])
        seconds += (_mean(took) or usual or 0.0) * (len(seeds) - len(ids))
    recorded = {variant: len(ids) for variant, ids in there.items()}
    if usual is None:
        return Forecast(ablation, recorded, None, "")
    known = len([each for each in alike if each is not None])
    source = f"{counted(known, 'recorded run')} of this model, data and epochs"
    return Forecast(ablation, recorded, seconds, f"{source}, {exact} of them of these variants")


def _recorded(ablation: Ablation, done: Sequence[Result]) -> dict[Variant, list[str]]:
    """The finished runs, among those `done`, that the ablation's jobs would find, by their
    fingerprints; where other machines run the jobs, those of the same settings and seeds."""
    asked, found = ablation.asked, {variant: list[str]() for variant in ablation.specs}
    first = next(iter(ablation.specs.values()))
    known = {f"seed={each.seed}" for each in done}
    wanted = [seed for seed in asked.seeds if seed in known]
    if first.again or not wanted:
        return found
    with compose.menu_folder():
        if not pool_launcher.is_local(asked.fixed):
            return {v: _alike(spec, wanted, done) for v, spec in ablation.specs.items()}
        specs = [[ablation.job(variant, seed).spec() for variant in found] for seed in wanted]
        settings = compose.config(asked.fixed).hydra.launcher
    planned = ablation.planned
    unfinished = planned.unfinished(first.output_path / "sweeps")
    kept = sweep_record.read(unfinished).get("threads") if unfinished else None
    threads = pool_launcher.planned_threads(settings, [first.device], len(planned.jobs), kept)
    question = functools.partial(_finished, threads=threads)
    for of_seed in forkserver.asked(question, specs, alone=not gpu_assignment.is_cpu(first.device)):
        for variant, run in zip(found, of_seed, strict=True):
            found[variant] += [run] if run else []
    return found


def _alike(spec: RunSpec, seeds: Sequence[str], done: Sequence[Result]) -> list[str]:
    """The latest run of the spec's settings with each of the seeds."""
    wanted = _settings(spec)
    same = {f"seed={each.seed}": each.run for each in done if _less(each.settings) == wanted}
    return [same[seed] for seed in seeds if seed in same]


def _finished(by_seed: Sequence[Sequence[RunSpec]], *, threads: int) -> list[list[str]]:
    """The finished runs of the specs' fingerprints, as a job asks for them; empty where there is
    none. Those of a seed have their data in common, so one of them is built."""
    import torch

    from recipe.runner import earlier_runs, execute, fingerprint

    found = []
    for specs in by_seed:
        with execute.rehearsal():
            try:
                run = execute.prepare(specs[0], Problems())
                torch.set_num_threads(threads)
                ids = [fingerprint.of(spec, run) for spec in specs]
            except RecipeError:  # the jobs say so, each
                ids = []
        ended = [earlier_runs.look(specs[0].output_path, each).finished for each in ids]
        found.append([run.name if run else "" for run in ended] or [""] * len(specs))
    return found


def show(forecast: Forecast, console: Console) -> None:
    asked = forecast.ablation.asked
    seeds = [seed.removeprefix("seed=") for seed in asked.seeds]
    title = f"Plan {asked.plan}: {counted(len(forecast.recorded), 'variant')}"
    if asked.plan == "greedy":
        title += " in the first round"
    fixed = [text for text in asked.fixed if not is_hydras(text)]
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in ("variant", "overrides", "recorded"):
        table.add_column(column, overflow="fold")
    for variant, number in forecast.recorded.items():
        texts = " ".join(variants.overrides(variant, asked.tricks))
        table.add_row(variants.name(variant), texts, f"{number} of {counted(len(seeds), 'seed')}")
    console.print(table)
    for line in forecast.ablation.left_out:
        console.print(f"Left out  {line}", soft_wrap=True)
    told = f"{counted(forecast.jobs, 'run')}, seed by seed (seed {listed(seeds, 10)})"
    if asked.plan == "greedy":
        rest = len(asked.tricks) * (len(asked.tricks) - 1) // 2 * len(seeds)
        told += f"; later rounds add at most {counted(rest, 'run')}"
    if fixed:
        console.print(f"In all    {printable(' '.join(fixed))}", soft_wrap=True)
    console.print(f"Jobs      {told}", soft_wrap=True)
    console.print(f"Recorded  {forecast.jobs - forecast.left}", soft_wrap=True)
    console.print(f"Time      {_time(forecast)}", soft_wrap=True)
    first = next(iter(forecast.ablation.specs.values()))
    if need := disk_estimate.sentence(first, forecast.left):
        console.print(f"Disk      {need}", soft_wrap=True)
    needed = least_seeds(len(asked.tricks), LEVEL)
    if len(seeds) < needed:
        tricks = counted(len(asked.tricks), "trick")
        console.print(
            f"Verdicts  take {counted(needed, 'seed')} where {tricks} "
            f"{'does' if len(asked.tricks) == 1 else 'do'} something, and {len(seeds)} "
            f"{'is' if len(seeds) == 1 else 'are'} planned (what is recorded isn't run again)",
            style="yellow", soft_wrap=True,
        )  # fmt: skip


def goes_on() -> bool:
    """Asks, where a person is there to answer."""
    if not (sys.stdin.isatty() and sys.stdout.isatty()):
        return True
    while True:
        try:
            answer = input("Go on? [Y/n] ").strip().lower()
        except EOFError:
            output.write("\n")
            return False
        if answer in ("", "y", "yes"):
            return True
        if answer in ("n", "no"):
            return False


def _time(forecast: Forecast) -> str:
    if not forecast.left:
        return "none, all of it is recorded"
    if forecast.seconds is None:
        return "not known: no finished run of this model, data and epochs is recorded"
    took = duration(forecast.seconds)
    return f"about {took} for {counted(forecast.left, 'run')} one after another ({forecast.source})"


def _settings(spec: RunSpec) -> dict[str, str]:
    """What a run of this spec records, less its seed and where it is recorded."""
    return _less(
        {key: printable(str(value)) for key, value in spec.parameters().items() if key != "seed"}
    )


def _less(settings: Mapping[str, str]) -> dict[str, str]:
    return {key: v for key, v in settings.items() if key.split(".")[0] != ELSEWHERE}


def _basis(settings: Mapping[str, str]) -> dict[str, str]:
    """What most decides how long a run takes."""
    deciding = ("model", "data", "epochs")
    return {key: value for key, value in settings.items() if key.split(".")[0] in deciding}


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None
