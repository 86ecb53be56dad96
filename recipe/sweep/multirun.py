"""`-m`, `ablate`, `search`: many jobs from one command line, launched by Hydra, each a run."""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import hydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from recipe import atomic_write, output
from recipe.config import compose, option_files
from recipe.config.instantiate import part
from recipe.errors import Problems, SpecError
from recipe.formatting import counted
from recipe.mlflow_sync import worker_process
from recipe.runner.console import Console
from recipe.runner.recorder import Status
from recipe.store import run_dirs, sweep_jobs, sweep_record
from recipe.sweep import disk_estimate, grid_sweeper, sweeper_arguments
from recipe.sweep.ablation import sweeper as ablation
from recipe.sweep.launchers import (
    forkserver,
    gpu_assignment,
    hydra_launchers,
    pool_launcher,
)
from recipe.sweep.plan import Planned, grid, shared_problems
from recipe.sweep.search import storage, sweeper

SWEEP = "RECIPE_SWEEP"
"""Environment variable with the sweep's id, for jobs in this process and in others."""


def multirun(arguments: Sequence[str], console: Console, command: Sequence[str]) -> int:
    """Runs the sweep; exit status 0 if every job finished, else 1.

    `command` is what was typed, for the record. Raises SpecError before the first run if any job's
    overrides or settings are wrong.
    """
    output.task("checking the jobs of the sweep")
    storage.check(arguments)
    overrides = compose.parse(arguments)
    hydra_launchers.check(overrides)
    # what takes a moment to be imported is, while the command line is looked at
    pool_launcher.foresee(overrides)
    if not any(o.key_or_group == "tracking" for o in overrides):
        worker_process.started()
    try:
        return _multirun(overrides, arguments, console, command)
    finally:
        forkserver.end()


def _multirun(
    overrides: Sequence[Override],
    arguments: Sequence[str],
    console: Console,
    command: Sequence[str],
) -> int:
    chosen = sweeper_arguments.sweeper(overrides)
    if chosen in VERBS:
        return VERBS[chosen](overrides, arguments, console, command)
    planned = grid(overrides)
    if need := disk_estimate.sentence(planned.first, len(planned.jobs)):
        console.print(f"Disk  {need}", soft_wrap=True)
    return _run(planned, arguments, console, command)[0]


# what only these need is imported by them: statistics take a moment to be imported


def _ablate(
    overrides: Sequence[Override],
    arguments: Sequence[str],
    console: Console,
    command: Sequence[str],
) -> int:
    from recipe.sweep.ablation import forecast
    from recipe.sweep.ablation import plan as ablate

    wanted = ablate.plan(overrides)
    forecast.show(forecast.make(wanted), console)
    if not wanted.asked.yes and not forecast.goes_on():
        return 0
    status, sweep = _run(wanted.planned, arguments, console, command)
    _compare(sweep, console)
    return status


def _search(
    overrides: Sequence[Override],
    arguments: Sequence[str],
    console: Console,
    command: Sequence[str],
) -> int:
    from recipe.sweep.ablation import forecast
    from recipe.sweep.search import arguments as asked
    from recipe.sweep.search import outcome, plan

    wanted = asked.read(overrides)
    planned = plan.of(wanted)
    plan.show(wanted, console)
    if need := disk_estimate.sentence(planned.first, planned.about["jobs"]):
        console.print(f"Disk      at most {need.removeprefix('about ')}", soft_wrap=True)
    if not wanted.yes and not forecast.goes_on():
        return 0
    status, sweep = _run(planned, arguments, console, command)
    outcome.show(sweep, console)
    return status


VERBS = {"ablation": _ablate, "search": _search}
"""By the sweeper that a verb is."""


def _compare(sweep: Path, console: Console) -> None:
    """What an ablation is run for; its runs stand, whatever there is to say of them."""
    from recipe.compare.command import compare

    try:
        compare([sweep.name, f"output_dir={sweep.parent.parent}"], console)
    except SpecError as error:
        for problem in error.problems:
            console.print(problem, soft_wrap=True)


def _run(
    planned: Planned, arguments: Sequence[str], console: Console, command: Sequence[str]
) -> tuple[int, Path]:
    """The exit status, and the sweep's folder."""
    gpu_assignment.check(compose.parse(arguments), planned.first)
    first, content = planned.first, planned.content(command)
    with compose.menu_folder():
        if pool_launcher.is_local(arguments):
            Problems(shared_problems(planned)).raise_any()
            forkserver.end_answers()
    sweep = planned.unfinished(first.output_path / "sweeps")
    said = f"{content['name']}: {counted(content['jobs'], 'run')}"
    if sweep is None or first.again:
        sweep = first.output_path / "sweeps" / run_dirs.new_id()
        with run_dirs.making(sweep):
            sweep.mkdir(parents=True)
            atomic_write.write(sweep / "sweep.json", json.dumps(content).encode(), sync=False)
    else:
        said += f", going on with {sweep.name}"
        content = {key: value for key, value in content.items() if key not in planned.keeps}
    console.print(said, soft_wrap=True)
    if first.options["tracking"] != "none":
        worker_process.started()
    output.task("starting the jobs")
    os.environ[SWEEP] = sweep.name
    status: Status = "KILLED"
    lock = sweep_record.begin(sweep, content)
    try:
        planned.open(sweep)
        _launch(arguments)
        status = planned.status(sweep)
    finally:
        del os.environ[SWEEP]
        pool_launcher.dismiss(console)
        _end(sweep, status, planned, console)
        lock.release()
    return 0 if status == "FINISHED" else 1, sweep


def _end(sweep: Path, status: Status, planned: Planned, console: Console) -> None:
    spec = planned.first
    tracking = part(spec, "tracking")(spec.output_path)
    sweep_record.end(sweep, status, planned.note(sweep))
    failure = None
    if sweep_record.is_untold(sweep):
        failure = worker_process.tell(tracking, spec.output_path, sweep)
    sweep_jobs.report(console, sweep)
    if failure:
        sync = run_dirs.command("sync", spec.output_path)
        told = f"MLflow did not take the sweep's end ({failure}); {sync} sends it"
        console.print(told, style="red", soft_wrap=True)


def _launch(arguments: Sequence[str]) -> None:
    compose.register_user_options()
    grid_sweeper.register()
    ablation.register()
    sweeper.register()
    pool_launcher.register()
    hydra_launchers.register()
    sys.argv = [sys.argv[0], "--multirun", *arguments]
    main = hydra.main(
        version_base="1.3", config_path=str(option_files.own_folder()), config_name="config"
    )
    main(_job)()


def _job(config: DictConfig) -> None:
    """In this process, where its launcher has no others."""
    from recipe.sweep.job import job

    job(config)
