"""`recipe ui`: shows the recorded runs, or a sweep, in MLflow's user interface."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from recipe import output
from recipe.config.verb_arguments import parse_key_values
from recipe.errors import SpecError
from recipe.mlflow_sync import ui_links
from recipe.mlflow_sync.ui_links import ExperimentLinks
from recipe.mlflow_sync.ui_server import MlflowServer
from recipe.runner.console import print_caution
from recipe.store import run_dirs, sweep_dirs, sweep_jobs, sweep_record

DEFAULTS = {"sweep": "", "port": "5000", "output_dir": "", "host": "127.0.0.1", "open": ""}


def ui(arguments: Sequence[str], console: Console) -> int:
    """Runs MLflow's server until it is stopped, and returns its exit status.

    Raises SpecError if nothing is recorded, the sweep doesn't exist, or the port is taken.
    """
    values = parse_key_values("ui", arguments, DEFAULTS, positional="sweep")
    port, opens = _parse_port(values["port"]), _parse_open(values["open"])
    outputs = run_dirs.resolve_output_dir(values["output_dir"])
    database = outputs / "mlflow.db"
    if not database.is_file():
        raise SpecError(f"output_dir: there is no {database}; record a run first: python -m recipe")
    sweep = _find_sweep_dir(outputs, values["sweep"])
    output.set_current_task("starting MLflow's server")
    server = MlflowServer(values["host"], port)
    with server.serve(outputs):
        if server.wait_until_ready():
            console.print(f"MLflow  {server.address} (Ctrl-C ends it)", soft_wrap=True)
            pages = _get_page_urls(server, outputs, sweep)
            if sweep and "Sweep" not in pages:
                print_caution(console, f"{sweep.name} is not in this MLflow database")
            for what, address in pages.items():
                console.print(f"{what:6}  {address}", soft_wrap=True)
            first = next(iter(pages.values()), server.address)
            if opens and not webbrowser.open(first):
                console.print("open: there is no browser here; open the page yourself")
        return server.wait()


def _parse_port(given: str) -> int:
    if not (given.isascii() and given.isdecimal() and 0 < int(given) < 65_536):
        raise SpecError(f"port must be a number from 1 to 65535, got {given}")
    return int(given)


def _parse_open(given: str) -> bool:
    """Whether to open a browser; by default if there is a display and a terminal."""
    if given not in ("", "true", "false"):
        raise SpecError(f"open must be true or false, got {given}")
    display = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return given == "true" or (not given and display and sys.stdout.isatty())


def _find_sweep_dir(outputs: Path, wanted: str) -> Path | None:
    """Returns the requested sweep, or the newest one that MLflow knows."""
    if not wanted:
        newest = reversed(sweep_dirs.list_sweep_dirs(outputs))
        return next(
            (sweep for sweep in newest if "mlflow_run_id" in sweep_record.read_record(sweep)), None
        )
    sweep = sweep_dirs.find_sweep(outputs, wanted)
    if "mlflow_run_id" not in sweep_record.read_record(sweep):
        raise SpecError(f"sweep: {sweep.name} has no run in MLflow; give another sweep")
    return sweep


def _get_page_urls(server: MlflowServer, outputs: Path, sweep: Path | None) -> dict[str, str]:
    """Returns addresses by title; the first one is opened."""
    record = sweep_record.read_record(sweep) if sweep else {}
    run = record.get("mlflow_run_id") or _find_newest_run_id(outputs)
    experiment = server.get_experiment_id(str(run)) if run else None
    if experiment is None:  # in another database, or deleted
        return {}
    page = ExperimentLinks(server.address, experiment)
    if sweep is None:
        return {"Runs": page.runs_url}
    name, swept = str(record.get("name", sweep.name)), [str(key) for key in record.get("swept", [])]
    search = ui_links.format_sweep_filter(sweep.name, str(run))
    reused = _get_reused_run_ids(sweep)
    view = reused and ui_links.build_view_tag(name, ui_links.format_ids_filter(reused), swept)
    view = view or ui_links.build_view_tag(name, search, swept)
    if view is None or not server.set_experiment_tag(
        experiment, f"{ui_links.VIEW_TAG_PREFIX}{sweep.name}", view
    ):
        return {"Sweep": page.run_url(str(run)), "Runs": page.search_url(search)}
    curves = page.view_url(sweep.name, curves=True)
    return {"Sweep": page.run_url(str(run)), "Runs": page.view_url(sweep.name), "Curves": curves}


def _get_reused_run_ids(sweep: Path) -> list[str]:
    """Returns the MLflow ids of a sweep's runs if some were recorded before it, else none."""
    with contextlib.suppress(SpecError, OSError, ValueError, TypeError):
        folder = run_dirs.get_runs_dir(sweep.parent.parent)
        found = [
            run_dirs.read_info(folder / job.run, "run")
            for job in sweep_jobs.read_results(sweep)
            if job.run
        ]
        if any(info.sweep != sweep.name for info in found):
            return [info.mlflow_run_id for info in found if info.mlflow_run_id]
    return []


def _find_newest_run_id(outputs: Path) -> str | None:
    """Returns the MLflow id of the newest run that MLflow has."""
    for folder in sorted(run_dirs.get_runs_dir(outputs).glob("*"), reverse=True):
        with contextlib.suppress(SpecError):
            if found := run_dirs.read_info(folder, "run").mlflow_run_id:
                return found
    return None
