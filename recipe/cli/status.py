"""`recipe status`: which runs and sweeps aren't finished; dead runs are closed; a sweep's grid."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recipe.checkpoint.removable import ENDED
from recipe.config.key_values import key_values
from recipe.errors import RecipeError, SpecError
from recipe.formatting import counted, duration, listed, printable
from recipe.store import damage, run_dirs, stale_records, sweep_dirs, sweep_status
from recipe.store.journal import Damaged
from recipe.store.run_dirs import Info
from recipe.store.run_progress import reached
from recipe.store.upload_state import Sent
from recipe.sweep import grid_table

MOST = 5
"""Runs that were found dead of which each is told by itself."""


def status(arguments: Sequence[str], console: Console) -> int:
    """Exit status 1 if a run to be taken up failed. Raises SpecError for wrong arguments."""
    known = {"sweep": "", "output_dir": "", "tracking.uri": "", "trust": "", "resume": "false"}
    values = key_values("status", arguments, known, positional="sweep")
    if values["resume"] not in ("true", "false"):
        raise SpecError(f"resume must be true or false, got {values['resume']}")
    outputs = run_dirs.outputs(values["output_dir"])
    if values["sweep"]:
        ignored = [key for key in ("tracking.uri", "trust", "resume") if values[key] != known[key]]
        if ignored:
            raise SpecError(f"{key}: is for runs that died, not for a sweep" for key in ignored)
        grid_table.show(sweep_status.read(sweep_dirs.find(outputs, values["sweep"])), console)
        return 0
    there = stale_records.recorded(run_dirs.folder(outputs), "run.json")
    if not there:
        console.print(f"There are no runs in {printable(run_dirs.folder(outputs))}", soft_wrap=True)
        return 0
    infos = dict(_infos(there))
    running = [run for run, info in infos.items() if info and info.status == "RUNNING"]
    closed = stale_records.close_all(outputs, running)
    infos |= _infos(closed)
    _show(infos, console)
    if damaged := damage.find(there):
        console.print(f"Caution {damage.sentence(damaged)}", style="yellow", soft_wrap=True)
    grid_table.show_unfinished(outputs, console)
    for run in closed[:MOST]:
        console.print(_advice(run, outputs), soft_wrap=True)
    if len(closed) > MOST:
        console.print(f"and {len(closed) - MOST} more that were dead, and are closed as KILLED")
    if closed:
        _tell(outputs, closed, values, console)
    if unsent := sum(_is_unsent(run, info) for run, info in infos.items()):
        verb = "is" if unsent == 1 else "are"
        console.print(
            f"{counted(unsent, 'ended run')} {verb} not completely in MLflow; "
            f"{run_dirs.command('sync', outputs)} sends what is left",
            soft_wrap=True,
        )
    if values["resume"] != "true":
        return 0
    killed = [run for run, info in infos.items() if info and info.status == "KILLED"]
    _tell_not_resumed([run for run in killed if run not in closed], not closed, outputs, console)
    return _take_up(closed, values, console)


def _advice(run: Path, outputs: Path) -> str:
    said = f"{printable(run.name)} was dead, and is closed as KILLED"
    if not (run / "spec.yaml").is_file():
        return f"{said}; it had not begun, start it again"
    resumes = run_dirs.command(f"resume {printable(run.name)}", outputs)
    return f"{said}; {resumes} takes it up"


def _tell_not_resumed(
    killed: Sequence[Path], none_dead: bool, outputs: Path, console: Console
) -> None:
    """Which runs `resume=true` doesn't resume, why, and how they are resumed."""
    resumable = [printable(run.name) for run in killed if (run / "spec.yaml").is_file()]
    said = ["No run was found dead"] if none_dead else []
    if resumable:
        which = listed(resumable[::-1], MOST)
        resume = run_dirs.command(f"resume {resumable[-1]}", outputs)
        said.append(
            f"{counted(len(resumable), 'run')} recorded as KILLED before, maybe on purpose, not "
            f"resumed ({which}); {resume} resumes {'it' if len(resumable) == 1 else 'the last'}"
        )
    if said:
        console.print("; ".join(said), soft_wrap=True)


def _take_up(closed: Sequence[Path], values: dict[str, str], console: Console) -> int:
    """Resumes the runs that were found dead, one after the other; one that fails costs itself, and
    one that another process resumed is left to that."""
    from recipe.cli.resume import resume

    given = [f"{key}={values[key]}" for key in ("output_dir", "tracking.uri", "trust")]
    failed = 0
    for run in closed:
        if reason := _needs_nobody(run):
            console.print(reason, soft_wrap=True)
            continue
        try:
            resume([run.name, *(text for text in given if not text.endswith("="))], console)
        except RecipeError as error:
            if reason := _needs_nobody(run):
                console.print(reason, soft_wrap=True)
                continue
            failed = 1
            for problem in error.problems:
                console.print(f"recipe: {problem}", style="red", soft_wrap=True)
    return failed


def _needs_nobody(run: Path) -> str | None:
    """Why a run isn't to be resumed, though it was found dead; None: it is."""
    status = run_dirs.said(run, "run").status
    name = printable(run.name)
    if status in ENDED:
        return f"{name} is {status} by now, so there is nothing to resume"
    if status == "RUNNING" and run_dirs.alive(run):
        return f"{name} is being run by another process, so it is left to that"
    return None


def _tell(outputs: Path, closed: list[Path], values: dict[str, str], console: Console) -> None:
    """Tells MLflow of the runs that were closed, and of their sweeps."""
    from recipe.cli.sync import Sync

    sending = Sync(outputs, values["tracking.uri"], values["trust"])
    for run in closed:
        sending.run(run)
    sending.sweeps()
    if sending.unsent:
        reasons = listed(list(sending.reasons.values()))
        console.print(f"MLflow wasn't told: {reasons}", style="red", soft_wrap=True)


def _infos(there: Sequence[Path]) -> Iterator[tuple[Path, Info | None]]:
    """What the runs say of themselves; None: it is damaged."""
    for run in there:
        try:
            yield run, run_dirs.said(run, "run")
        except SpecError:
            yield run, None


def _is_unsent(run: Path, info: Info | None) -> bool:
    """Whether a run ended of which `sync` would send something."""
    if info is None or info.status == "RUNNING" or Sent.has_all(run):
        return False
    sent = Sent.read(run)
    try:
        return sent is None or bool(sent.left(run) and not sent.gone)
    except Damaged:
        return True


def _show(infos: Mapping[Path, Info | None], console: Console) -> None:
    table = Table(title="Runs that aren't finished", title_justify="left", box=None, pad_edge=False)
    for column in ("run", "name", "state", "step", "last sign of life"):
        table.add_column(column)
    states: Counter[str] = Counter()
    for run, info in infos.items():
        if info is None:
            states["damaged"] += 1
            table.add_row(printable(run.name), "", "damaged", "-", "-")
            continue
        states[printable(info.status)] += 1
        if info.status not in ("FINISHED", "PRUNED"):  # a pruned one is never gone on with
            ago = duration(max(0.0, time.time() - stale_records.last_sign(run) / 1000))
            cells = (run.name, info.name, info.status, str(reached(run)), f"{ago} ago")
            table.add_row(*map(printable, cells))
    if table.row_count:
        console.print(table)
    counts = ", ".join(f"{count} {state}" for state, count in sorted(states.items()))
    console.print(f"{counted(len(infos), 'run')}: {counts}", soft_wrap=True)
