"""`resume`: a run that was stopped goes on, and ends as if it never had been.

With overrides that change what runs, a new run goes on from where the recorded one stands.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from rich.console import Console

from recipe.checkpoint import transfer
from recipe.checkpoint.files import Checkpoints
from recipe.cli.recorded_spec import Asked, asked
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError
from recipe.formatting import listed, relative
from recipe.runner import earlier_runs, environment, fingerprint, plan
from recipe.runner.earlier_runs import Earlier
from recipe.runner.execute import execute, prepare, report, report_again
from recipe.store import lineage, run_dirs, run_record
from recipe.training.run import Run


def resume(arguments: Sequence[str], console: Console) -> int:
    """Takes the run up that the first argument names; with overrides that change what runs, goes on
    from where it stands as a new run. Exit status 0 when it is finished."""
    problems = Problems()
    wanted = asked("resume", arguments, problems)
    if problems or transfer.changed(wanted.recorded, wanted.spec):
        _branch(wanted, problems, " ".join(arguments), console)
    else:
        _check(wanted)
        _take_up(wanted.folder, wanted.spec, console)
    return 0


def _check(wanted: Asked) -> None:
    """Raises SpecError for what a run that goes on as itself can't obey."""
    found = []
    if wanted.spec.name != wanted.recorded.name:
        found.append(f"name={wanted.spec.name}: a run that goes on keeps its name; leave it out")
    if wanted.spec.again and not wanted.recorded.again:
        found.append("again=true starts a run anew, and resume goes on with it; leave one of them")
    if found:
        raise SpecError(found)


def _take_up(folder: Path, spec: RunSpec, console: Console) -> None:
    """Goes on with the run of that folder; `spec` is its own.

    Raises SpecError for a run that is finished, was pruned, is being run, or whose data are gone.
    """
    info = run_dirs.read(folder, "resume")
    if info.status == "PRUNED":
        raise SpecError(
            f"resume: {info.id} was pruned, as a search wanted no more of it; its spec runs whole "
            f"by python -m recipe spec={relative(folder / 'spec.yaml')}"
        )
    if info.status == "FINISHED":
        raise SpecError(
            f"resume: {info.id} is finished; to go on beyond its end, give more epochs=<number>"
        )
    run = prepare(spec, Problems())
    identity, source = fingerprint.of(spec, run), lineage.source(folder)
    if source:
        identity = lineage.identity(identity, source)
    if identity != info.fingerprint:
        what = listed(_changes(folder, spec, run)) or "device, threads or given weights"
        console.print(
            f"Caution not as it was when {info.id} started ({what}), so its numbers will not be "
            "those of a run that was never stopped",
            style="yellow",
            soft_wrap=True,
        )
    console.print(plan.headline(spec, run), soft_wrap=True)
    outcome, recorder = execute(
        spec, run, console,
        name=info.name, command=f"resume {info.id}", before=Earlier(identity, stopped=folder),
    )  # fmt: skip
    report(console, outcome, recorder)


def _branch(wanted: Asked, problems: Problems, line: str, console: Console) -> None:
    if wanted.spec.name == wanted.recorded.name:  # it is another run
        wanted = replace(wanted, spec=replace(wanted.spec, name=None))
    run = prepare(wanted.spec, problems)
    newest = Checkpoints(wanted.folder, wanted.spec.checkpoint).newest()
    if newest is None:
        raise SpecError(
            f"resume: {wanted.folder.name} has no checkpoint to go on from (checkpoint.every, "
            "checkpoint.keep_finished and recipe prune keep=0 decide what is kept); start a new run"
        )
    checkpoint, saved = newest
    transfer.check(wanted.spec, saved["run"])
    console.print(plan.headline(wanted.spec, run), soft_wrap=True)
    identity = lineage.identity(fingerprint.of(wanted.spec, run), checkpoint)
    before = earlier_runs.of(wanted.spec, identity)
    outcome, recorder = execute(
        wanted.spec, run, console,
        name=wanted.spec.label, command=f"resume {line}",
        before=replace(before, goes_on_from=checkpoint),
    )  # fmt: skip
    report(console, outcome, recorder)
    report_again(console, before, recorder)


def _changes(folder: Path, spec: RunSpec, run: Run) -> list[str]:
    """What differs from when the run started. Raises SpecError if its data do."""
    record = run_record.read(folder)
    if record.digest and record.digest != run.data.digest:
        raise SpecError(
            f"resume: the data are not those that {folder.name} was trained with; put them back, "
            "or start a new run"
        )
    now = {**environment.versions(), **fingerprint.code(spec, run)}
    then = {**record.versions, **record.code}
    now["processes"] = str(run.ranks.size)
    then["processes"] = record.environment.get("processes", "1")
    return [
        f"{name} {then.get(name, 'none')[:12]} -> {now.get(name, 'none')[:12]}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    ]
