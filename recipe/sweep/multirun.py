"""`-m`, `ablate`, `search`: many jobs from one command line, launched by Hydra, each a run."""

from __future__ import annotations

import contextlib
import json
import os
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from pathlib import Path

import hydra
from hydra.core.override_parser.types import Override
from omegaconf import DictConfig

from recipe import atomic_write, output
from recipe.components.tracking.local import local
from recipe.config import compose, option_files
from recipe.config.instantiate import bind_component
from recipe.errors import Problems, SpecError
from recipe.formatting import pluralize
from recipe.mlflow_sync.upload_queue import UploadQueue, wait_for_runs
from recipe.runner.console import Console
from recipe.runner.recorder import Status
from recipe.store import run_dirs, sweep_jobs, sweep_record
from recipe.sweep import disk_estimate, grid_sweeper, search_storage, sweeper_arguments
from recipe.sweep.ablation import sweeper as ablation
from recipe.sweep.launchers import forkserver, gpu_assignment, hydra_launchers, pool_launcher
from recipe.sweep.plan import SweepPlan, find_shared_problems, plan_grid
from recipe.sweep.search import sweeper

SWEEP_ID_VARIABLE = "RECIPE_SWEEP"
"""Environment variable with the sweep's id, for jobs in this process and in others."""


def multirun(arguments: Sequence[str], console: Console, command: Sequence[str]) -> int:
    """Runs the sweep; exit status 0 if every job finished, else 1.

    `command` is what was typed, for the record. Raises SpecError before the first run if any job's
    overrides or settings are wrong.
    """
    output.set_current_task("checking the jobs of the sweep")
    search_storage.check_no_password(arguments)
    overrides = compose.parse_overrides(arguments)
    hydra_launchers.check_installed(overrides)
    # imported while the command line is checked
    pool_launcher.prestart_forkserver(overrides)
    try:
        with _prestart_uploader(overrides):
            return _run_sweeper(overrides, arguments, console, command)
    finally:
        forkserver.stop()


def _prestart_uploader(overrides: Sequence[Override]) -> AbstractContextManager[object]:
    """Imports MLflow in the uploader, where the built-in default of `tracking` surely holds."""
    given = {o.key_or_group: o for o in overrides}
    if "tracking" in given or option_files.user_conf_dir() is not None:
        return contextlib.nullcontext()
    folder = given["output_dir"].value() if "output_dir" in given else ""
    if not isinstance(folder, str):
        return contextlib.nullcontext()
    outputs = run_dirs.resolve_output_dir(folder)
    return UploadQueue(outputs, local(outputs, experiment="recipe"))


def _run_sweeper(
    overrides: Sequence[Override],
    arguments: Sequence[str],
    console: Console,
    command: Sequence[str],
) -> int:
    chosen = sweeper_arguments.get_sweeper(overrides)
    if chosen in SWEEPER_FUNCTIONS:
        return SWEEPER_FUNCTIONS[chosen](overrides, arguments, console, command)
    planned = plan_grid(overrides)
    if need := disk_estimate.format_disk_estimate(planned.first_spec, len(planned.jobs)):
        console.print(f"Disk  {need}", soft_wrap=True)
    return _run_plan(planned, arguments, console, command)[0]


# what only these need is imported by them: statistics take a moment to be imported


def _run_ablation(
    overrides: Sequence[Override],
    arguments: Sequence[str],
    console: Console,
    command: Sequence[str],
) -> int:
    from recipe.sweep.ablation import forecast
    from recipe.sweep.ablation import plan as ablate

    wanted = ablate.plan_ablation(overrides)
    forecast.print_forecast(forecast.make_forecast(wanted), console)
    if not wanted.arguments.yes and not forecast.confirm():
        return 0
    status, sweep = _run_plan(wanted.sweep_plan, arguments, console, command)
    _print_comparison(sweep, console)
    return status


def _run_search(
    overrides: Sequence[Override],
    arguments: Sequence[str],
    console: Console,
    command: Sequence[str],
) -> int:
    from recipe.sweep.ablation import forecast
    from recipe.sweep.search import arguments as asked
    from recipe.sweep.search import outcome, plan

    wanted = asked.parse_arguments(overrides)
    planned = plan.plan_search(wanted)
    plan.print_plan(wanted, console)
    if need := disk_estimate.format_disk_estimate(
        planned.first_spec, planned.extra_metadata["jobs"]
    ):
        console.print(f"Disk      at most {need.removeprefix('about ')}", soft_wrap=True)
    if not wanted.yes and not forecast.confirm():
        return 0
    status, sweep = _run_plan(planned, arguments, console, command)
    outcome.print_outcome(sweep, console)
    return status


SWEEPER_FUNCTIONS = {"ablation": _run_ablation, "search": _run_search}
"""By the sweeper that a verb is."""


def _print_comparison(sweep_dir: Path, console: Console) -> None:
    """What an ablation is run for; its runs stand, whatever there is to say of them."""
    from recipe.compare.command import compare

    try:
        compare([sweep_dir.name, f"output_dir={sweep_dir.parent.parent}"], console)
    except SpecError as error:
        for problem in error.problems:
            console.print(problem, soft_wrap=True)


def _run_plan(
    sweep_plan: SweepPlan, arguments: Sequence[str], console: Console, command: Sequence[str]
) -> tuple[int, Path]:
    """The exit status, and the sweep's folder."""
    gpu_assignment.check_launcher_gpus(compose.parse_overrides(arguments), sweep_plan.first_spec)
    first, content = sweep_plan.first_spec, sweep_plan.to_metadata(command)
    with compose.composition_context():
        if pool_launcher.is_local_launcher(arguments):
            Problems(find_shared_problems(sweep_plan)).raise_if_any()
            forkserver.stop_helper()
    sweep = sweep_plan.find_unfinished(first.output_path / "sweeps")
    message = f"{content['name']}: {pluralize(content['jobs'], 'run')}"
    if sweep is None or first.again:
        sweep = first.output_path / "sweeps" / run_dirs.new_run_id()
        with run_dirs.wrap_output_errors(sweep):
            sweep.mkdir(parents=True)
            atomic_write.write_file(sweep / "sweep.json", json.dumps(content).encode(), sync=False)
    else:
        message += f", resuming {sweep.name}"
        content = {
            key: value for key, value in content.items() if key not in sweep_plan.preserved_keys
        }
    console.print(message, soft_wrap=True)
    uploads = UploadQueue(first.output_path, bind_component(first, "tracking")(first.output_path))
    uploads.start()
    output.set_current_task("starting the jobs")
    os.environ[SWEEP_ID_VARIABLE] = sweep.name
    status: Status = "KILLED"
    lock = sweep_record.start_sweep(sweep, content)
    try:
        sweep_plan.prepare(sweep)
        _launch_hydra(arguments)
        status = sweep_plan.get_final_status(sweep)
    finally:
        del os.environ[SWEEP_ID_VARIABLE]
        pool_launcher.close_pools()
        with contextlib.closing(uploads):
            _close_sweep(sweep, status, sweep_plan, uploads, console)
        lock.release()
    return 0 if status == "FINISHED" else 1, sweep


def _close_sweep(
    sweep_dir: Path, status: Status, sweep_plan: SweepPlan, uploads: UploadQueue, console: Console
) -> None:
    output.set_current_task("sending the record to MLflow")
    for run, missing in wait_for_runs(sweep_dir.parent.parent, sweep_dir.name).items():
        message = f"MLflow did not take all of {run.name}: {missing}"
        console.print(message, style="red", soft_wrap=True)
    sweep_record.write_end(sweep_dir, status, sweep_plan.format_summary(sweep_dir))
    failure = None
    if sweep_record.has_unsent_end(sweep_dir):
        failure = uploads.wait([sweep_dir]).get(sweep_dir)
    sweep_jobs.print_summary(console, sweep_dir)
    if failure:
        sync = run_dirs.format_command("sync", sweep_dir.parent.parent)
        message = f"MLflow did not take the sweep's end ({failure}); {sync} sends it"
        console.print(message, style="red", soft_wrap=True)


def _launch_hydra(arguments: Sequence[str]) -> None:
    compose.register_user_conf()
    grid_sweeper.register()
    ablation.register()
    sweeper.register()
    pool_launcher.register()
    hydra_launchers.register()
    sys.argv = [sys.argv[0], "--multirun", *arguments]
    main = hydra.main(
        version_base="1.3", config_path=str(option_files.builtin_conf_dir()), config_name="config"
    )
    main(_run_job)()


def _run_job(config: DictConfig) -> None:
    """In this process, where its launcher has no others."""
    from recipe.sweep.job import run_job

    run_job(config)
