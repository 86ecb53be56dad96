"""`recipe ui`: MLflow's page of the recorded runs, opened at a sweep."""

from __future__ import annotations

import contextlib
import os
import sys
import webbrowser
from collections.abc import Sequence
from pathlib import Path

from rich.console import Console

from recipe import output
from recipe.config.key_values import key_values
from recipe.errors import SpecError
from recipe.mlflow_sync import ui_links
from recipe.mlflow_sync.ui_links import Page
from recipe.mlflow_sync.ui_server import Server
from recipe.store import run_dirs, sweep_dirs, sweep_jobs, sweep_record

KNOWN = {"sweep": "", "port": "5000", "output_dir": "", "host": "127.0.0.1", "open": ""}


def ui(arguments: Sequence[str], console: Console) -> int:
    """Runs MLflow's server until it is stopped; its exit status if it ends of itself.

    Raises SpecError where nothing is recorded, there is no such sweep, or the port is taken.
    """
    values = key_values("ui", arguments, KNOWN, positional="sweep")
    port, opens = _port(values["port"]), _opens(values["open"])
    outputs = run_dirs.outputs(values["output_dir"])
    database = outputs / "mlflow.db"
    if not database.is_file():
        raise SpecError(f"output_dir: there is no {database}; record a run first: python -m recipe")
    sweep = _sweep(outputs, values["sweep"])
    output.task("starting MLflow's server")
    server = Server(values["host"], port)
    with server.running(outputs):
        if server.answers():
            console.print(f"MLflow  {server.address} (Ctrl-C ends it)", soft_wrap=True)
            pages = _pages(server, outputs, sweep)
            if sweep and "Sweep" not in pages:
                told = f"Caution MLflow doesn't know {sweep.name} here; was it recorded elsewhere?"
                console.print(told, style="yellow", soft_wrap=True)
            for what, address in pages.items():
                console.print(f"{what:6}  {address}", soft_wrap=True)
            first = next(iter(pages.values()), server.address)
            if opens and not webbrowser.open(first):
                console.print("open: there is no browser here; open the page yourself")
        return server.wait()


def _port(given: str) -> int:
    if not (given.isascii() and given.isdecimal() and 0 < int(given) < 65_536):
        raise SpecError(f"port must be a number from 1 to 65535, got {given}")
    return int(given)


def _opens(given: str) -> bool:
    """Whether the page is to be opened in a browser; without a word, where a person sits."""
    if given not in ("", "true", "false"):
        raise SpecError(f"open must be true or false, got {given}")
    display = sys.platform in ("darwin", "win32") or any(
        os.environ.get(name) for name in ("DISPLAY", "WAYLAND_DISPLAY")
    )
    return given == "true" or (not given and display and sys.stdout.isatty())


def _sweep(outputs: Path, wanted: str) -> Path | None:
    """The sweep to show: the one asked for, or the newest that MLflow knows."""
    if not wanted:
        newest = reversed(sweep_dirs.folders(outputs))
        return next(
            (sweep for sweep in newest if "mlflow_run_id" in sweep_record.read(sweep)), None
        )
    sweep = sweep_dirs.find(outputs, wanted)
    if "mlflow_run_id" not in sweep_record.read(sweep):
        raise SpecError(f"sweep: {sweep.name} has no run in MLflow; give another sweep")
    return sweep


def _pages(server: Server, outputs: Path, sweep: Path | None) -> dict[str, str]:
    """The addresses to show, by what is there; the first is opened."""
    about = sweep_record.read(sweep) if sweep else {}
    run = about.get("mlflow_run_id") or _newest_run(outputs)
    experiment = server.experiment(str(run)) if run else None
    if experiment is None:  # recorded elsewhere, or deleted
        return {}
    page = Page(server.address, experiment)
    if sweep is None:
        return {"Runs": page.runs}
    name, swept = str(about.get("name", sweep.name)), [str(key) for key in about.get("swept", [])]
    search = ui_links.runs_of(sweep.name, str(run))
    taken_over = _runs_if_taken_over(sweep)
    view = taken_over and ui_links.view(name, ui_links.runs_among(taken_over), swept)
    view = view or ui_links.view(name, search, swept)
    if view is None or not server.tag(experiment, f"{ui_links.VIEW}{sweep.name}", view):
        return {"Sweep": page.run(str(run)), "Runs": page.filtered(search)}
    curves = page.view(sweep.name, curves=True)
    return {"Sweep": page.run(str(run)), "Runs": page.view(sweep.name), "Curves": curves}


def _runs_if_taken_over(sweep: Path) -> list[str]:
    """The ids in MLflow of a sweep's runs, if some were recorded before it; else none."""
    with contextlib.suppress(SpecError, OSError, ValueError, TypeError):
        folder = run_dirs.folder(sweep.parent.parent)
        found = [
            run_dirs.read(folder / job.run, "run") for job in sweep_jobs.read(sweep) if job.run
        ]
        if any(info.sweep != sweep.name for info in found):
            return [info.mlflow_run_id for info in found if info.mlflow_run_id]
    return []


def _newest_run(outputs: Path) -> str | None:
    """The id in MLflow of the newest run that it has."""
    for folder in sorted(run_dirs.folder(outputs).glob("*"), reverse=True):
        with contextlib.suppress(SpecError):
            if found := run_dirs.read(folder, "run").mlflow_run_id:
                return found
    return None
