"""`recipe status`: lists unfinished runs and sweeps, and closes stale records; a sweep's grid."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path

from rich.console import Console

from recipe.checkpoint.retention import PRUNABLE_STATUSES
from recipe.cli.main import load
from recipe.cli.recorded_run import parse_resume
from recipe.cli.sync import RecordUploader, list_runs
from recipe.config.verb_arguments import parse_key_values
from recipe.errors import RecipeError, SpecError
from recipe.formatting import escape_unprintable, format_duration, format_list, pluralize
from recipe.runner.console import make_table, print_caution
from recipe.store import damaged_files, run_dirs, stale_records, sweep_dirs, sweep_status
from recipe.store.journal import DamagedJournalError
from recipe.store.run_dirs import RunInfo
from recipe.store.run_record import RunRecord
from recipe.store.upload_state import UploadState
from recipe.sweep import grid_table

MAX_LISTED_RUNS = 5


def status(arguments: Sequence[str], console: Console) -> int:
    """Exit status 1 if a run could not be resumed. Raises SpecError for wrong arguments."""
    known = {"sweep": "", "output_dir": "", "tracking.uri": "", "trust": "", "resume": "false"}
    values = parse_key_values("status", arguments, known, positional="sweep")
    if values["resume"] not in ("true", "false"):
        raise SpecError(f"resume must be true or false, got {values['resume']}")
    outputs = run_dirs.resolve_output_dir(values["output_dir"])
    if values["sweep"]:
        ignored = [key for key in ("tracking.uri", "trust", "resume") if values[key] != known[key]]
        if ignored:
            raise SpecError(f"{key}: is for stale runs, not for a sweep" for key in ignored)
        sweep = sweep_dirs.find_sweep(outputs, values["sweep"])
        grid_table.print_sweep(sweep_status.read_status(sweep), console)
        return 0
    runs = list_runs(outputs, console)
    if not runs:
        return 0
    infos = _read_infos(runs)
    running = [run for run, info in infos.items() if info and info.status == "RUNNING"]
    closed = stale_records.close_stale_records(outputs, running)
    infos |= _read_infos(closed)
    _print_runs(infos, console)
    if damaged := damaged_files.find_damaged_runs(runs):
        print_caution(console, damaged_files.format_damage(damaged))
    grid_table.print_unfinished_sweeps(outputs, console)
    for run in closed[:MAX_LISTED_RUNS]:
        console.print(_format_stale_run(run, outputs), soft_wrap=True)
    if (more := len(closed) - MAX_LISTED_RUNS) > 0:
        console.print(f"and {more} more that were stale, and are closed as KILLED")
    if closed:
        _upload_stale_runs(outputs, closed, values, console)
    if unsent := sum(_has_unsent_records(run, info) for run, info in infos.items()):
        verb = "is" if unsent == 1 else "are"
        console.print(
            f"{pluralize(unsent, 'ended run')} {verb} not completely in MLflow; "
            f"{run_dirs.format_command('sync', outputs)} sends what is left",
            soft_wrap=True,
        )
    if values["resume"] != "true":
        return 0
    killed = [run for run, info in infos.items() if info and info.status == "KILLED"]
    _print_not_resumed([run for run in killed if run not in closed], not closed, outputs, console)
    return _resume_stale_runs(closed, values, console)


def _format_stale_run(run: Path, outputs: Path) -> str:
    message = f"{escape_unprintable(run.name)} was stale, and is closed as KILLED"
    if not (run / "spec.yaml").is_file():
        return f"{message}; it had not started to train, so start it again"
    resumes = run_dirs.format_command(f"resume {escape_unprintable(run.name)}", outputs)
    return f"{message}; {resumes} resumes it"


def _print_not_resumed(
    killed: Sequence[Path], none_stale: bool, outputs: Path, console: Console
) -> None:
    """Which runs `resume=true` doesn't resume, why, and how they are resumed."""
    resumable = [escape_unprintable(run.name) for run in killed if (run / "spec.yaml").is_file()]
    message = ["No stale run was found"] if none_stale else []
    if resumable:
        which = format_list(resumable[::-1], MAX_LISTED_RUNS)
        resume = run_dirs.format_command(f"resume {resumable[-1]}", outputs)
        message.append(
            f"{pluralize(len(resumable), 'run')} recorded as KILLED before, maybe on purpose, not "
            f"resumed ({which}); {resume} resumes {'it' if len(resumable) == 1 else 'the last'}"
        )
    if message:
        console.print("; ".join(message), soft_wrap=True)


def _resume_stale_runs(closed: Sequence[Path], values: dict[str, str], console: Console) -> int:
    """Resumes stale runs one after the other, except those that another process has resumed.
    Returns 1 if one of them failed."""
    resume = load("recipe.cli.resume:resume")  # with torch, which only resume=true needs
    given = [f"{key}={values[key]}" for key in ("output_dir", "tracking.uri", "trust")]
    failed = 0
    for run in closed:
        if reason := _get_skip_reason(run):
            console.print(reason, soft_wrap=True)
            continue
        try:
            arguments = [run.name, *(text for text in given if not text.endswith("="))]
            resume(parse_resume(arguments), console)
        except RecipeError as error:
            if reason := _get_skip_reason(run):
                console.print(reason, soft_wrap=True)
                continue
            failed = 1
            for problem in error.problems:
                console.print(f"recipe: {problem}", style="red", soft_wrap=True)
    return failed


def _get_skip_reason(run: Path) -> str | None:
    """Why a run that was stale is not resumed; None if it is."""
    status = run_dirs.read_info_file(run, "run").status
    name = escape_unprintable(run.name)
    if status in PRUNABLE_STATUSES:
        return f"{name} is {status} now, so there is nothing to resume"
    if status == "RUNNING" and run_dirs.is_running(run):
        return f"{name} is not resumed, as another process is running it"
    return None


def _upload_stale_runs(
    outputs: Path, closed: Sequence[Path], values: dict[str, str], console: Console
) -> None:
    """Sends the ends of runs that were closed, and of their sweeps, to MLflow."""
    uploader = RecordUploader(outputs, values["tracking.uri"], values["trust"])
    for run in closed:
        uploader.upload_run(run)
    uploader.upload_sweeps()
    if uploader.num_unsent:
        reasons = format_list(list(uploader.failure_reasons.values()))
        console.print(f"MLflow was not updated: {reasons}", style="red", soft_wrap=True)


def _read_infos(runs: Sequence[Path]) -> dict[Path, RunInfo | None]:
    """The content of each run.json; None if it is damaged."""
    found: dict[Path, RunInfo | None] = {}
    for run in runs:
        try:
            found[run] = run_dirs.read_info_file(run, "run")
        except SpecError:
            found[run] = None
    return found


def _has_unsent_records(run: Path, info: RunInfo | None) -> bool:
    """Whether the run has ended, and `sync` would send something of it."""
    if info is None or info.status == "RUNNING" or UploadState.is_complete(run):
        return False
    sent = UploadState.read(run)
    try:
        return sent is None or bool(sent.describe_unsent(run) and not sent.gone)
    except DamagedJournalError:
        return True


def _print_runs(infos: Mapping[Path, RunInfo | None], console: Console) -> None:
    table = make_table("run", "name", "state", "step", "last activity", title="Unfinished runs")
    states: Counter[str] = Counter()
    for run, info in infos.items():
        if info is None:
            states["damaged"] += 1
            table.add_row(escape_unprintable(run.name), "", "damaged", "-", "-")
            continue
        states[escape_unprintable(info.status)] += 1
        if info.status not in PRUNABLE_STATUSES:
            idle = max(0.0, time.time() - stale_records.get_last_activity(run) / 1000)
            step, ago = str(RunRecord(run).progress), f"{format_duration(idle)} ago"
            table.add_row(*map(escape_unprintable, (run.name, info.name, info.status, step, ago)))
    if table.row_count:
        console.print(table)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    console.print(f"{pluralize(len(infos), 'run')}: {counts}", soft_wrap=True)
