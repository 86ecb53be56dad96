"""`-m`, `ablate`, `search`: many jobs from one command line, launched by Hydra, each a run."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import os
import pkgutil
import sys
from collections.abc import Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import hydra
from hydra.core.override_parser.types import Override

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
from recipe.sweep import hydra_plugins, sweeper_arguments
from recipe.sweep.launchers import gpu_assignment, hydra_launchers, pool_launcher, worker_pool
from recipe.sweep.launchers.forkserver import TORCH_HELPER
from recipe.sweep.plan import SweepPlan, find_shared_problems, format_disk_estimate

SWEEP_ID_VARIABLE = "RECIPE_SWEEP"
"""Environment variable with the sweep's id, for jobs in this process and in others."""


class SweeperCommand(NamedTuple):
    """Functions by `module:name`. What `function` needs, statistics and Optuna, takes time to
    import, so it is imported when the command line has been checked."""

    parser: str
    """Parses and checks the overrides."""
    function: str
    """Takes the parser's result and a SweepRequest; returns the exit status."""


SWEEPER_COMMANDS = {
    "ablation": SweeperCommand(
        "recipe.sweep.ablation.plan:plan_ablation", "recipe.sweep.ablation.command:run_ablation"
    ),
    "search": SweeperCommand(
        "recipe.sweep.search.arguments:parse_arguments", "recipe.sweep.search.plan:run_search"
    ),
}
"""By the option of hydra/sweeper; others run a grid."""

GRID_COMMAND = SweeperCommand("recipe.sweep.plan:plan_grid", "recipe.sweep.multirun:run_grid")


@dataclass(frozen=True)
class SweepRequest:
    overrides: Sequence[Override]
    arguments: Sequence[str]
    """The overrides as they were given."""
    command: Sequence[str]
    """The command line, for the record."""
    console: Console


def multirun(arguments: Sequence[str], console: Console, command: Sequence[str]) -> int:
    """Runs the sweep; exit status 0 if every job finished, else 1.

    Raises SpecError before the first run if any job's overrides or settings are wrong.
    """
    output.set_current_task("checking the jobs of the sweep")
    sweeper_arguments.check_no_password(arguments)
    overrides = compose.parse_overrides(arguments)
    hydra_launchers.check_installed(overrides)
    sweeper = sweeper_arguments.get_sweeper(overrides)
    if sweeper == "search" and importlib.util.find_spec("optuna") is None:
        raise SpecError("search: Optuna isn't installed; pip install 'torch-recipe[search]'")
    request = SweepRequest(overrides, arguments, command, console)
    pool_launcher.prestart_helper(overrides)
    try:
        with _prestart_uploader(overrides):
            chosen = SWEEPER_COMMANDS.get(sweeper or "", GRID_COMMAND)
            parsed = pkgutil.resolve_name(chosen.parser)(overrides)
            status: int = pkgutil.resolve_name(chosen.function)(parsed, request)
            return status
    finally:
        TORCH_HELPER.stop()


def _prestart_uploader(overrides: Sequence[Override]) -> AbstractContextManager[object]:
    """Starts importing MLflow in the uploader, if the default of `tracking` certainly applies."""
    given = {o.key_or_group: o for o in overrides}
    output_dir = given["output_dir"].value() if "output_dir" in given else ""
    if (
        "tracking" in given
        or option_files.user_conf_dir() is not None
        or not isinstance(output_dir, str)
    ):
        return contextlib.nullcontext()
    outputs = run_dirs.resolve_output_dir(output_dir)
    return UploadQueue(outputs, local(outputs, experiment="recipe"))


def run_grid(plan: SweepPlan, request: SweepRequest) -> int:
    if need := format_disk_estimate(plan.first_spec, len(plan.jobs)):
        request.console.print(f"Disk  {need}", soft_wrap=True)
    return run_plan(plan, request)[0]


def confirm() -> bool:
    """Asks whether to proceed, on a terminal."""
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


def run_plan(sweep_plan: SweepPlan, request: SweepRequest) -> tuple[int, Path]:
    """Runs a new sweep, or resumes an unfinished one; the exit status and the folder."""
    first, console = sweep_plan.first_spec, request.console
    content = sweep_plan.to_metadata(request.command)
    gpu_assignment.check_launcher_gpus(request.overrides, first)
    with compose.composition_context():
        if pool_launcher.is_local_launcher(request.arguments):
            Problems(find_shared_problems(sweep_plan)).raise_if_any()
            TORCH_HELPER.stop_helper()
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
        _launch_hydra(request.arguments)
        status = sweep_plan.get_final_status(sweep)
    finally:
        del os.environ[SWEEP_ID_VARIABLE]
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
    hydra_plugins.register()
    pool_launcher.register()
    hydra_launchers.register()
    sys.argv = [sys.argv[0], "--multirun", *arguments]
    main = hydra.main(
        version_base="1.3", config_path=str(option_files.builtin_conf_dir()), config_name="config"
    )
    main(worker_pool.run_job)()  # for launchers that run jobs in this process
