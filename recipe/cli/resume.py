"""`recipe resume`: continues a run that was stopped, with the numbers of an uninterrupted one.

With overrides that change what runs, a new run starts from the newest checkpoint of the recorded
one.
"""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

from rich.console import Console

from recipe.checkpoint import transfer
from recipe.checkpoint.files import Checkpoints
from recipe.cli.recorded_run import RecordedRunRequest
from recipe.config.spec import RunSpec
from recipe.errors import Problems, SpecError
from recipe.formatting import format_list, relative_to_cwd
from recipe.runner import environment, fingerprint, plan
from recipe.runner.console import print_caution
from recipe.runner.earlier_runs import EarlierRuns, find_earlier_runs, print_agreement
from recipe.runner.execute import execute_run
from recipe.runner.prepare import prepare_run
from recipe.store import lineage, run_dirs
from recipe.store.run_record import RunRecord
from recipe.training.run import Run


def resume(request: RecordedRunRequest, console: Console) -> int:
    """Resumes the run, or starts a new one from its checkpoint if the overrides change it."""
    if request.problems or transfer.find_changed_keys(request.recorded_spec, request.spec):
        _start_branch(request, console)
    else:
        _check_overrides(request)
        _resume_run(request.run_dir, request.spec, console)
    return 0


def _check_overrides(request: RecordedRunRequest) -> None:
    """Raises SpecError for overrides that a run can't take once it has started."""
    problems = Problems()
    if request.spec.name != request.recorded_spec.name:
        problems.append(f"name={request.spec.name}: a resumed run keeps its name; leave it out")
    if request.spec.again and not request.recorded_spec.again:
        problems.append(
            "again=true starts a run from scratch, and resume continues it; leave one out"
        )
    problems.raise_if_any()


def _resume_run(folder: Path, spec: RunSpec, console: Console) -> None:
    """Raises SpecError for a run that is finished, pruned, running, or whose data have changed."""
    info = run_dirs.read_info(folder, "resume")
    if info.status == "PRUNED":
        raise SpecError(
            f"resume: {info.id} was pruned by a search; its spec is trained to the end "
            f"by python -m recipe spec={relative_to_cwd(folder / 'spec.yaml')}"
        )
    if info.status == "FINISHED":
        raise SpecError(
            f"resume: {info.id} is finished; to train it further, give more epochs=<number>"
        )
    run = prepare_run(spec, Problems())
    identity, source = fingerprint.compute(spec, run), lineage.find_parent_checkpoint(folder)
    if source:
        identity = lineage.compute_branch_fingerprint(identity, source)
    if identity != info.fingerprint:
        what = format_list(_list_changes(folder, spec, run)) or "device, threads or initial weights"
        print_caution(
            console,
            f"changed since {info.id} started: {what}; its numbers will not be those of a run "
            "that was never stopped",
        )
    console.print(plan.format_headline(spec, run), soft_wrap=True)
    summary = execute_run(
        spec, run, console,
        name=info.name, command=f"resume {info.id}",
        earlier_runs=EarlierRuns(identity, interrupted_run_dir=folder),
    )  # fmt: skip
    summary.print_report(console)


def _start_branch(request: RecordedRunRequest, console: Console) -> None:
    spec = request.spec
    if spec.name == request.recorded_spec.name:  # it is another run
        spec = replace(spec, name=None)
    run = prepare_run(spec, request.problems)
    newest = Checkpoints(request.run_dir, spec.checkpoint).load_latest_with_path()
    if newest is None:
        raise SpecError(
            f"resume: {request.run_dir.name} has no checkpoint to resume from (checkpoint.every, "
            "checkpoint.keep_finished and recipe prune keep=0 decide what is kept); start a new run"
        )
    checkpoint, saved = newest
    transfer.check_epochs_left(spec, saved["run"])
    console.print(plan.format_headline(spec, run), soft_wrap=True)
    identity = lineage.compute_branch_fingerprint(fingerprint.compute(spec, run), checkpoint)
    before = find_earlier_runs(spec, identity)
    summary = execute_run(
        spec, run, console,
        name=spec.label, command=f"resume {' '.join(request.arguments)}",
        earlier_runs=replace(before, source_checkpoint=checkpoint),
    )  # fmt: skip
    summary.print_report(console)
    print_agreement(console, before, summary.run_dir)


def _list_changes(folder: Path, spec: RunSpec, run: Run) -> list[str]:
    """What differs from when the run started. Raises SpecError if its data do."""
    record = RunRecord(folder)
    if record.data_digest and record.data_digest != run.data.digest:
        raise SpecError(
            f"resume: the data have changed since {folder.name} was trained; restore them, or "
            "start a new run"
        )
    now = {**environment.get_versions(), **fingerprint.get_code_versions(spec, run)}
    codes = {name: code.text for name, code in record.code_versions.items()}
    then = {**record.package_versions, **codes}
    now["processes"] = str(run.collectives.world_size)
    then["processes"] = record.environment.get("processes", "1")
    return [
        f"{name} {then.get(name, 'none')[:12]} -> {now.get(name, 'none')[:12]}"
        for name in sorted(now.keys() | then.keys())
        if now.get(name) != then.get(name)
    ]
