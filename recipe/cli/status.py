"""`recipe status`: which runs and sweeps aren't finished; dead runs are closed; a sweep's grid."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recipe.checkpoint.retention import PRUNABLE_STATUSES
from recipe.cli.recorded_run import parse_resume
from recipe.cli.sync import RecordUploader
from recipe.config.verb_arguments import parse_key_values
from recipe.errors import RecipeError, SpecError
from recipe.formatting import escape_unprintable, format_duration, format_list, pluralize
from recipe.store import damage, run_dirs, stale_records, sweep_dirs, sweep_status
from recipe.store.journal import DamagedJournalError
from recipe.store.run_dirs import RunInfo
from recipe.store.run_record import RunRecord
from recipe.store.upload_state import UploadState
from recipe.sweep import grid_table

MAX_LISTED_RUNS = 5
"""Runs that were found dead of which each is told by itself."""


def status(arguments: Sequence[str], console: Console) -> int:
    """Exit status 1 if a run to be taken up failed. Raises SpecError for wrong arguments."""
    known = {"sweep": "", "output_dir": "", "tracking.uri": "", "trust": "", "resume": "false"}
    values = parse_key_values("status", arguments, known, positional="sweep")
    if values["resume"] not in ("true", "false"):
        raise SpecError(f"resume must be true or false, got {values['resume']}")
    outputs = run_dirs.resolve_output_dir(values["output_dir"])
    if values["sweep"]:
        ignored = [key for key in ("tracking.uri", "trust", "resume") if values[key] != known[key]]
        if ignored:
            raise SpecError(f"{key}: is for runs that died, not for a sweep" for key in ignored)
        grid_table.print_sweep(
            sweep_status.read_status(sweep_dirs.find_sweep(outputs, values["sweep"])), console
        )
        return 0
    there = stale_records.list_record_dirs(run_dirs.get_runs_dir(outputs), "run.json")
    if not there:
        console.print(
            f"There are no runs in {escape_unprintable(run_dirs.get_runs_dir(outputs))}",
            soft_wrap=True,
        )
        return 0
    infos = dict(_read_infos(there))
    running = [run for run, info in infos.items() if info and info.status == "RUNNING"]
    closed = stale_records.close_stale_records(outputs, running)
    infos |= _read_infos(closed)
    _print_runs(infos, console)
    if damaged := damage.find_damaged_runs(there):
        console.print(f"Caution {damage.format_damage(damaged)}", style="yellow", soft_wrap=True)
    grid_table.print_unfinished_sweeps(outputs, console)
    for run in closed[:MAX_LISTED_RUNS]:
        console.print(_format_stale_run(run, outputs), soft_wrap=True)
    if len(closed) > MAX_LISTED_RUNS:
        console.print(
            f"and {len(closed) - MAX_LISTED_RUNS} more that were stale, and are closed as KILLED"
        )
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
        return f"{message}; it had not begun, start it again"
    resumes = run_dirs.format_command(f"resume {escape_unprintable(run.name)}", outputs)
    return f"{message}; {resumes} resumes it"


def _print_not_resumed(
    killed: Sequence[Path], none_dead: bool, outputs: Path, console: Console
) -> None:
    """Which runs `resume=true` doesn't resume, why, and how they are resumed."""
    resumable = [escape_unprintable(run.name) for run in killed if (run / "spec.yaml").is_file()]
    message = ["No stale run was found"] if none_dead else []
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
    """Resumes the runs that were found dead, one after the other; one that fails costs itself, and
    one that another process resumed is left to that."""
    from recipe.cli.resume import resume  # with torch, which only resume=true needs

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
    """Why a run isn't to be resumed, though it was found dead; None: it is."""
    status = run_dirs.read_info_file(run, "run").status
    name = escape_unprintable(run.name)
    if status in PRUNABLE_STATUSES:
        return f"{name} is {status} by now, so there is nothing to resume"
    if status == "RUNNING" and run_dirs.is_running(run):
        return f"{name} is being run by another process, so it is left to that"
    return None


def _upload_stale_runs(
    outputs: Path, closed: list[Path], values: dict[str, str], console: Console
) -> None:
    """Tells MLflow of the runs that were closed, and of their sweeps."""
    sending = RecordUploader(outputs, values["tracking.uri"], values["trust"])
    for run in closed:
        sending.upload_run(run)
    sending.upload_sweeps()
    if sending.num_unsent:
        reasons = format_list(list(sending.failure_reasons.values()))
        console.print(f"MLflow was not updated: {reasons}", style="red", soft_wrap=True)


def _read_infos(folders: Sequence[Path]) -> Iterator[tuple[Path, RunInfo | None]]:
    """What the runs say of themselves; None: it is damaged."""
    for run in folders:
        try:
            yield run, run_dirs.read_info_file(run, "run")
        except SpecError:
            yield run, None


def _has_unsent_records(run: Path, info: RunInfo | None) -> bool:
    """Whether a run ended of which `sync` would send something."""
    if info is None or info.status == "RUNNING" or UploadState.is_complete(run):
        return False
    sent = UploadState.read(run)
    try:
        return sent is None or bool(sent.describe_unsent(run) and not sent.gone)
    except DamagedJournalError:
        return True


def _print_runs(infos: Mapping[Path, RunInfo | None], console: Console) -> None:
    table = Table(title="Runs that aren't finished", title_justify="left", box=None, pad_edge=False)
    for column in ("run", "name", "state", "step", "last sign of life"):
        table.add_column(column)
    states: Counter[str] = Counter()
    for run, info in infos.items():
        if info is None:
            states["damaged"] += 1
            table.add_row(escape_unprintable(run.name), "", "damaged", "-", "-")
            continue
        states[escape_unprintable(info.status)] += 1
        if info.status not in ("FINISHED", "PRUNED"):  # a pruned one is never gone on with
            ago = format_duration(
                max(0.0, time.time() - stale_records.get_last_activity(run) / 1000)
            )
            cells = (run.name, info.name, info.status, str(RunRecord(run).progress), f"{ago} ago")
            table.add_row(*map(escape_unprintable, cells))
    if table.row_count:
        console.print(table)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    console.print(f"{pluralize(len(infos), 'run')}: {counts}", soft_wrap=True)
