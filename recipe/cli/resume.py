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
from recipe.cli.recorded_spec import RunRequest, parse_run_request
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError
from recipe.formatting import format_list, relative_to_cwd
from recipe.runner import earlier_runs, environment, fingerprint, plan
from recipe.runner.earlier_runs import EarlierRuns
from recipe.runner.execute import execute_run, prepare_run, print_agreement, print_report
from recipe.store import lineage, run_dirs
from recipe.store.run_record import RunRecord
from recipe.training.run import Run


def resume(arguments: Sequence[str], console: Console) -> int:
    """Takes the run up that the first argument names; with overrides that change what runs, goes on
    from where it stands as a new run. Exit status 0 when it is finished."""
    problems = Problems()
    wanted = parse_run_request("resume", arguments, problems)
    if problems or transfer.find_changed_keys(wanted.recorded_spec, wanted.spec):
        _start_branch(wanted, problems, " ".join(arguments), console)
    else:
        _check_overrides(wanted)
        _resume_run(wanted.run_dir, wanted.spec, console)
    return 0


def _check_overrides(wanted: RunRequest) -> None:
    """Raises SpecError for what a run that goes on as itself can't obey."""
    found = []
    if wanted.spec.name != wanted.recorded_spec.name:
        found.append(f"name={wanted.spec.name}: a run that goes on keeps its name; leave it out")
    if wanted.spec.again and not wanted.recorded_spec.again:
        found.append("again=true starts a run anew, and resume goes on with it; leave one of them")
    if found:
        raise SpecError(found)


def _resume_run(folder: Path, spec: RunSpec, console: Console) -> None:
    """Goes on with the run of that folder; `spec` is its own.

    Raises SpecError for a run that is finished, was pruned, is being run, or whose data are gone.
    """
    info = run_dirs.read_info(folder, "resume")
    if info.status == "PRUNED":
        raise SpecError(
            f"resume: {info.id} was pruned, as a search wanted no more of it; its spec runs whole "
            f"by python -m recipe spec={relative_to_cwd(folder / 'spec.yaml')}"
        )
    if info.status == "FINISHED":
        raise SpecError(
            f"resume: {info.id} is finished; to go on beyond its end, give more epochs=<number>"
        )
    run = prepare_run(spec, Problems())
    identity, source = fingerprint.compute(spec, run), lineage.find_parent_checkpoint(folder)
    if source:
        identity = lineage.compute_branch_fingerprint(identity, source)
    if identity != info.fingerprint:
        what = format_list(_list_changes(folder, spec, run)) or "device, threads or given weights"
        console.print(
            f"Caution not as it was when {info.id} started ({what}), so its numbers will not be "
            "those of a run that was never stopped",
            style="yellow",
            soft_wrap=True,
        )
    console.print(plan.format_headline(spec, run), soft_wrap=True)
    outcome, recorder = execute_run(
        spec, run, console,
        name=info.name, command=f"resume {info.id}", earlier_runs=EarlierRuns(identity, interrupted_run_dir=folder),
    )  # fmt: skip
    print_report(console, outcome, recorder)


def _start_branch(wanted: RunRequest, problems: Problems, line: str, console: Console) -> None:
    if wanted.spec.name == wanted.recorded_spec.name:  # it is another run
        wanted = replace(wanted, spec=replace(wanted.spec, name=None))
    run = prepare_run(wanted.spec, problems)
    newest = Checkpoints(wanted.run_dir, wanted.spec.checkpoint).load_latest_with_path()
    if newest is None:
        raise SpecError(
            f"resume: {wanted.run_dir.name} has no checkpoint to go on from (checkpoint.every, "
            "checkpoint.keep_finished and recipe prune keep=0 decide what is kept); start a new run"
        )
    checkpoint, saved = newest
    transfer.check_epochs_left(wanted.spec, saved["run"])
    console.print(plan.format_headline(wanted.spec, run), soft_wrap=True)
    identity = lineage.compute_branch_fingerprint(fingerprint.compute(wanted.spec, run), checkpoint)
    before = earlier_runs.find_earlier_runs(wanted.spec, identity)
    outcome, recorder = execute_run(
        wanted.spec, run, console,
        name=wanted.spec.label, command=f"resume {line}",
        earlier_runs=replace(before, source_checkpoint=checkpoint),
    )  # fmt: skip
    print_report(console, outcome, recorder)
    print_agreement(console, before, recorder)


def _list_changes(folder: Path, spec: RunSpec, run: Run) -> list[str]:
    """What differs from when the run started. Raises SpecError if its data do."""
    record = RunRecord(folder)
    if record.data_digest and record.data_digest != run.data.digest:
        raise SpecError(
            f"resume: the data are not those that {folder.name} was trained with; put them back, "
            "or start a new run"
        )
    now = {**environment.get_versions(), **fingerprint.get_code_versions(spec, run)}
    then = {**record.package_versions, **record.code_versions}
    now["processes"] = str(run.collectives.world_size)
    then["processes"] = record.environment.get("processes", "1")
    return [
        f"{name} {then.get(name, 'none')[:12]} -> {now.get(name, 'none')[:12]}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    ]
