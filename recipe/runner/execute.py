"""One run from its spec to its record: device environment, build, train, record."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from recipe import output
from recipe.components import device
from recipe.config import schema
from recipe.config.instantiate import bind_component, find_component_problems, instantiate_device
from recipe.config.option_files import GROUPS
from recipe.config.spec import RunSpec
from recipe.config.world_size import World
from recipe.errors import Problems, SpecError, find_interrupt, is_output_closed
from recipe.formatting import pluralize, relative_to_cwd
from recipe.runner.signals import RunPruned

if TYPE_CHECKING:
    from recipe.runner.earlier_runs import EarlierRuns
    from recipe.runner.recorder import Recorder
    from recipe.runner.run_summary import RunSummary
    from recipe.training.loop import MetricsEvent
    from recipe.training.run import Run


def prepare_run(spec: RunSpec, problems: Problems) -> Run:
    """Sets the device's environment, imports torch, builds; in all processes that share the run, to
    which the first one hands the spec.

    `problems` are those found so far; raises SpecError with them and everything found here.
    """
    output.set_current_task("importing torch")
    # of all parts only the device may be looked at before torch is imported
    before = len(problems)
    for lines in find_component_problems(spec, ("device",)).values():
        problems += lines
    if len(problems) == before:
        with problems.collect_component_errors(f"device={spec.options['device']}"):
            device.set_environment(instantiate_device(spec).environment())
    broken = {"device"} if len(problems) > before else set()
    world = World.from_environment()
    if world.size == 1:
        return _build_run(spec, problems, broken)
    from recipe.training import rendezvous

    if world.rank == 0:
        rendezvous.send_spec(spec)
    rendezvous.init_process_group()
    return rendezvous.build_on_all_ranks(lambda: _build_run(spec, problems, broken))


def find_problems(spec: RunSpec, *, is_on_cpu: bool) -> list[str]:
    """What is wrong with a spec, found by making its parts; those that are made for a GPU are left
    out, and no GPU is used."""
    try:
        if is_on_cpu:
            prepare_run(spec, Problems())
        else:
            _build_run(replace(spec, compile=False), Problems(), {"device"})
    except (Exception, SystemExit) as error:  # of a user's part; the job itself reports it
        if is_output_closed(error):
            raise
        if signalled := find_interrupt(error):
            raise signalled from None
        return error.problems if isinstance(error, SpecError) else []
    return []


@contextlib.contextmanager
def preserve_environment() -> Iterator[None]:
    """Around what is made to be looked at: the environment and torch's threads are restored."""
    import torch

    environment, threads = dict(os.environ), torch.get_num_threads()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)


def _build_run(spec: RunSpec, problems: Problems, invalid_groups: set[str]) -> Run:
    from recipe.components.data import worker
    from recipe.training import param_groups
    from recipe.training.build import build

    if root := schema.find_run_setting_problems(vars(spec)):
        problems += root
        if any(line.startswith(("seed", "epochs")) for line in root):
            invalid_groups |= {
                "data",
                "sampler",
                "scheduler",
                "warmup",
                "freeze",
            }  # they need these two
        if any(line.startswith("accumulate") for line in root):
            spec = replace(spec, accumulate=1)  # told already, so that the rest is checked
    static = param_groups.static_problems(
        spec, tuple(group for group in GROUPS if group != "device")
    )
    problems += [line for lines in static.values() for line in lines]
    with worker.translate_worker_errors(spec.data.get("workers", 0)):
        return build(spec, problems, invalid_groups | set(static))


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
    from recipe.components.data import worker
    from recipe.runner import component_errors
    from recipe.runner import plan as planning
    from recipe.runner.fit import fit
    from recipe.runner.recorder import Recorder
    from recipe.runner.start import start_run
    from recipe.store import results, run_dirs

    tracking = bind_component(spec, "tracking")(spec.output_path)
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
        recorder.close("PRUNED")
        _warn_upload_incomplete(console, recorder)
        raise
    except KeyboardInterrupt:
        recorder.close("KILLED")
        _warn_upload_incomplete(console, recorder)
        again = run_dirs.format_command(f"resume {recorder.run_id}", spec.output_path)
        again = again.replace("python -m recipe", World.from_environment().launch_command, 1)
        told = "" if sweep else f" Resume with: {again}"  # a sweep goes on as a whole
        console.print(f"Stopped.{told}", soft_wrap=True)
        raise
    except BaseException as error:
        unread = is_output_closed(error)
        recorder.close("KILLED" if unread else "FAILED", "" if unread else traceback.format_exc())
        _warn_upload_incomplete(console, recorder)
        if unread:
            again = run_dirs.format_command(f"resume {recorder.run_id}", spec.output_path)
            told = f"nobody reads what the run prints any more, so it stops; {again} goes on"
            output.print_error(told)
        raise
    _remove_temporary_files(spec, recorder)
    recorder.close("FINISHED")
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
    from recipe.checkpoint.files import Checkpoints
    from recipe.store import lineage

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
    from recipe.runner.run_summary import render_mlflow_note

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
    from recipe.runner import parameter_table
    from recipe.runner.run_summary import build_audit_table
    from recipe.runner.trick_effects import iter_trick_effects
    from recipe.store import run_dirs

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
    from recipe.compare import agreement

    if earlier_runs.finished_run_dir:
        agrees = agreement.compare_runs(earlier_runs.finished_run_dir, recorder.run_dir).summary
        console.print(f"Again   as {earlier_runs.finished_run_dir.name}: {agrees}", soft_wrap=True)
