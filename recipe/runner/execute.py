"""Trains a run that was prepared, and records it."""

from __future__ import annotations

import contextlib
import signal
import threading
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path

from rich.console import Console
from rich.table import Table

from recipe import output
from recipe.checkpoint.files import Checkpoints
from recipe.compare import agreement
from recipe.components.data import worker
from recipe.config.spec import RunSpec
from recipe.config.world_size import World
from recipe.errors import is_output_closed
from recipe.formatting import pluralize, relative_to_cwd
from recipe.runner import component_errors, parameter_table
from recipe.runner import plan as planning
from recipe.runner.earlier_runs import EarlierRuns
from recipe.runner.fit import fit
from recipe.runner.recorder import Recorder
from recipe.runner.run_summary import RunSummary, build_audit_table, render_mlflow_note
from recipe.runner.signals import RunPruned
from recipe.runner.start import start_run
from recipe.runner.trick_effects import iter_trick_effects
from recipe.store import lineage, results, run_dirs
from recipe.training.loop import MetricsEvent
from recipe.training.run import Run


def execute_run(
    spec: RunSpec,
    run: Run,
    console: Console,
    *,
    name: str,
    command: str,
    earlier_runs: EarlierRuns,
    sweep: Path | None = None,
    tags: Mapping[str, str] | None = None,
    on_point: Callable[[MetricsEvent], None] | None = None,
) -> tuple[RunSummary, Recorder]:
    """Trains and records; goes on with `before.stopped` if there is one. `watch` sees every Point.

    An exception ends the run's record as FAILED, Ctrl-C and SIGTERM as KILLED, Pruned as PRUNED,
    and goes on to the caller.
    """

    tracking = run.components["tracking"].bind()(spec.output_path)
    if earlier_runs.interrupted_run_dir:
        recorder = Recorder.reopen(
            earlier_runs.interrupted_run_dir,
            tracking,
            sweep_dir=sweep,
            fingerprint=earlier_runs.fingerprint,
        )
    else:
        if earlier_runs.damage:
            caution = f"Caution {earlier_runs.damage}"
            console.print(caution, style="yellow", highlight=False, soft_wrap=True)
        recorder = Recorder(
            spec.output_path, name, tracking, sweep_dir=sweep, fingerprint=earlier_runs.fingerprint
        )
    try:
        threading.Thread(target=_preload_modules, name="imports").start()
        with component_errors.wrap_component_errors(spec, run):
            plan = planning.make_plan(spec, run)
        with run.collectives.translate_peer_errors():
            saved = start_run(recorder, plan, earlier_runs, console, sweep=sweep, tags=tags or {})
        for caution in plan.cautions:
            console.print(f"Caution {caution}", style="yellow", highlight=False, soft_wrap=True)
        workers = worker.translate_worker_errors(spec.data.get("workers", 0))
        with component_errors.wrap_component_errors(spec, run), workers:
            if spec.summary:
                console.print(str(plan.model_summary), highlight=False, soft_wrap=True)
            outcome = fit(recorder, plan, console, checkpoint_state=saved, on_point=on_point)
            _record_results(recorder, outcome, command)
    except RunPruned as reason:
        reason.run_id = recorder.run_id
        recorder.set_tags({"recipe.pruned": str(reason)})
        _remove_temporary_files(spec, recorder)
        recorder.close("PRUNED", wait_for_upload=sweep is None)
        _warn_upload_incomplete(console, recorder)
        raise
    except KeyboardInterrupt:
        recorder.close("KILLED", wait_for_upload=sweep is None)
        _warn_upload_incomplete(console, recorder)
        again = run_dirs.format_command(f"resume {recorder.run_id}", spec.output_path)
        again = again.replace("python -m recipe", World.from_environment().launch_command, 1)
        message = "" if sweep else f" Resume with: {again}"  # a sweep goes on as a whole
        console.print(f"Stopped.{message}", soft_wrap=True)
        raise
    except BaseException as error:
        unread = is_output_closed(error)
        recorder.close(
            "KILLED" if unread else "FAILED",
            "" if unread else traceback.format_exc(),
            wait_for_upload=sweep is None,
        )
        _warn_upload_incomplete(console, recorder)
        if unread:
            again = run_dirs.format_command(f"resume {recorder.run_id}", spec.output_path)
            message = f"the reader of the output has exited, so the run stops; {again} resumes it"
            output.print_error(message)
        raise
    _remove_temporary_files(spec, recorder)
    recorder.close("FINISHED", wait_for_upload=sweep is None)
    if outcome.late_signal is not None and not sweep:  # a sweep stops
        name = (
            "Ctrl-C"
            if outcome.late_signal == signal.SIGINT
            else signal.Signals(outcome.late_signal).name
        )
        console.print(f"{name} came after the last step, and the run has reached its end")
    with contextlib.suppress(OSError):  # it can be made of the journals again
        results.write_result(recorder.run_dir)
    return outcome, recorder


def _remove_temporary_files(spec: RunSpec, recorder: Recorder) -> None:
    """Removes what a run needs only until it ends; what can't be removed takes room, no more."""

    with contextlib.suppress(OSError):
        Checkpoints(recorder.run_dir, spec.checkpoint).remove_unneeded()
        lineage.free_parent_checkpoint(recorder.run_dir)


def _preload_modules() -> None:
    """While the run trains, as torch computes without holding Python up."""

    import scipy.special  # noqa: F401

    import recipe.runner.plots  # noqa: F401


def _record_results(recorder: Recorder, outcome: RunSummary, command: str) -> None:
    output.set_current_task("writing the end of the record")
    from recipe.runner import plots

    recorder.write_file("lr.png", lambda path: plots.plot_learning_rates(outcome.history, path))
    recorder.write_file("curves.png", lambda path: plots.plot_curves(outcome.history, path))
    for name in ("lr.png", "curves.png", "model.safetensors"):
        recorder.log_artifact(name)
    tags = {"mlflow.note.content": render_mlflow_note(outcome, command, recorder.run_dir)}
    if outcome.tricks_without_effect:
        tags["recipe.no_effect"] = ", ".join(outcome.tricks_without_effect)
    recorder.set_tags(tags)


def print_report(console: Console, outcome: RunSummary, recorder: Recorder) -> None:
    """What a person reads at the end of a run."""

    console.print()
    console.print(parameter_table.build_table(outcome.plan.parameter_rows))
    console.print()
    effects = Table(title="What each trick did", title_justify="left", box=None, pad_edge=False)
    for column in ("trick", "option", "what it did"):
        effects.add_column(column)
    for effect in iter_trick_effects(outcome.plan, outcome.history):
        effects.add_row(*effect)
    console.print(effects)
    console.print()
    console.print(build_audit_table(outcome.verdicts))
    console.print()
    for caution in outcome.iter_cautions():
        console.print(f"Caution {caution}", style="yellow", highlight=False, soft_wrap=True)
    if recorder.differing_points:
        console.print(
            f"Caution {pluralize(recorder.differing_points, 'point')} recorded before the run was "
            "resumed had other values; the new ones are used",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
    outputs = recorder.run_dir.parent.parent
    tries = f"predict run={recorder.run_id} input=<image or folder>"
    lines = [
        f"Result  {outcome.format_result()}",
        f"Record  {relative_to_cwd(recorder.run_dir)}"
        + (f", in MLflow as {recorder.mlflow_run_id}" if recorder.mlflow_run_id else ""),
    ]
    if recorder.mlflow_run_id:
        lines.append(f"Open    {run_dirs.format_command('ui', outputs)}")
    lines.append(f"Try it  {run_dirs.format_command(tries, outputs)}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    _warn_upload_incomplete(console, recorder)


def _warn_upload_incomplete(console: Console, recorder: Recorder) -> None:
    if recorder.upload_failure:
        console.print(
            f"MLflow did not take all of it ({recorder.upload_failure}); the complete record is on "
            "disk.",
            style="red",
            soft_wrap=True,
        )


def print_agreement(console: Console, earlier_runs: EarlierRuns, recorder: Recorder) -> None:
    """Whether the numbers are those of an earlier run that had the same fingerprint."""

    if earlier_runs.finished_run_dir:
        agrees = agreement.compare_runs(earlier_runs.finished_run_dir, recorder.run_dir).summary
        console.print(f"Again   as {earlier_runs.finished_run_dir.name}: {agrees}", soft_wrap=True)
