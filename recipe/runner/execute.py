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
from recipe.config.instantiate import device_part, part, static_problems
from recipe.config.option_files import GROUPS
from recipe.config.spec import RunSpec
from recipe.config.world_size import World
from recipe.errors import Problems, SpecError, cause, is_output_closed
from recipe.formatting import counted, relative
from recipe.runner.interruption import Pruned

if TYPE_CHECKING:
    from recipe.runner.earlier_runs import Earlier
    from recipe.runner.recorder import Recorder
    from recipe.runner.run_summary import Outcome
    from recipe.training.loop import Point
    from recipe.training.run import Run


def prepare(spec: RunSpec, problems: Problems) -> Run:
    """Sets the device's environment, imports torch, builds; in all processes that share the run, to
    which the first one hands the spec.

    `problems` are those found so far; raises SpecError with them and everything found here.
    """
    output.task("importing torch")
    # of all parts only the device may be looked at before torch is imported
    before = len(problems)
    for lines in static_problems(spec, ("device",)).values():
        problems += lines
    if len(problems) == before:
        with problems.component(f"device={spec.options['device']}"):
            device.apply(device_part(spec).environment())
    broken = {"device"} if len(problems) > before else set()
    world = World.here()
    if world.size == 1:
        return _built(spec, problems, broken)
    from recipe.training import rendezvous

    if world.rank == 0:
        rendezvous.hand(spec)
    rendezvous.start()
    return rendezvous.agreed(lambda: _built(spec, problems, broken))


def problems(spec: RunSpec, *, on_cpu: bool) -> list[str]:
    """What is wrong with a spec, found by making its parts; those that are made for a GPU are left
    out, and no GPU is used."""
    try:
        if on_cpu:
            prepare(spec, Problems())
        else:
            _built(replace(spec, compile=False), Problems(), {"device"})
    except (Exception, SystemExit) as error:  # of a user's part; the job itself reports it
        if is_output_closed(error):
            raise
        if signalled := cause(error):
            raise signalled from None
        return error.problems if isinstance(error, SpecError) else []
    return []


@contextlib.contextmanager
def rehearsal() -> Iterator[None]:
    """Around what is made to be looked at: the environment and torch's threads are restored."""
    import torch

    environment, threads = dict(os.environ), torch.get_num_threads()
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(environment)
        torch.set_num_threads(threads)


def _built(spec: RunSpec, problems: Problems, broken: set[str]) -> Run:
    from recipe.components.data import worker
    from recipe.training import param_groups
    from recipe.training.build import build

    if root := schema.root_problems(vars(spec)):
        problems += root
        if any(line.startswith(("seed", "epochs")) for line in root):
            broken |= {"data", "sampler", "scheduler", "warmup", "freeze"}  # they need these two
        if any(line.startswith("accumulate") for line in root):
            spec = replace(spec, accumulate=1)  # told already, so that the rest is checked
    static = param_groups.static_problems(
        spec, tuple(group for group in GROUPS if group != "device")
    )
    problems += [line for lines in static.values() for line in lines]
    with worker.reported(spec.data.get("workers", 0)):
        return build(spec, problems, broken | set(static))


def execute(
    spec: RunSpec,
    run: Run,
    console: Console,
    *,
    name: str,
    command: str,
    before: Earlier,
    sweep: Path | None = None,
    tags: Mapping[str, str] | None = None,
    watch: Callable[[Point], None] | None = None,
) -> tuple[Outcome, Recorder]:
    """Trains and records; goes on with `before.stopped` if there is one. `watch` sees every Point.

    An exception ends the run's record as FAILED, Ctrl-C and SIGTERM as KILLED, Pruned as PRUNED,
    and goes on to the caller.
    """
    from recipe.components.data import worker
    from recipe.runner import component_errors
    from recipe.runner import plan as planning
    from recipe.runner.fit import train_recorded
    from recipe.runner.recorder import Recorder
    from recipe.runner.start import begin
    from recipe.store import results, run_dirs

    tracking = part(spec, "tracking")(spec.output_path)
    if before.stopped:
        recorder = Recorder.reopen(
            before.stopped, tracking, sweep=sweep, fingerprint=before.fingerprint
        )
    else:
        if before.damaged:
            caution = f"Caution {before.damaged}"
            console.print(caution, style="yellow", highlight=False, soft_wrap=True)
        recorder = Recorder(
            spec.output_path, name, tracking, sweep=sweep, fingerprint=before.fingerprint
        )
    try:
        threading.Thread(target=_import_for_the_end, name="imports").start()
        with component_errors.reported(spec, run):
            plan = planning.make(spec, run)
        with run.ranks.together():
            saved = begin(recorder, plan, before, console, sweep=sweep, tags=tags or {})
        for caution in plan.cautions:
            console.print(f"Caution {caution}", style="yellow", highlight=False, soft_wrap=True)
        workers = worker.reported(spec.data.get("workers", 0))
        with component_errors.reported(spec, run), workers:
            if spec.summary:
                console.print(str(plan.summary), highlight=False, soft_wrap=True)
            outcome = train_recorded(recorder, plan, console, saved=saved, watch=watch)
            _record_end(recorder, outcome, command)
    except Pruned as reason:
        reason.run = recorder.id
        recorder.tags({"recipe.pruned": str(reason)})
        _free(spec, recorder)
        recorder.close("PRUNED")
        _tell_lacking(console, recorder)
        raise
    except KeyboardInterrupt:
        recorder.close("KILLED")
        _tell_lacking(console, recorder)
        again = run_dirs.command(f"resume {recorder.id}", spec.output_path)
        again = again.replace("python -m recipe", World.here().launcher, 1)
        told = "" if sweep else f" Go on with: {again}"  # a sweep goes on as a whole
        console.print(f"Stopped.{told}", soft_wrap=True)
        raise
    except BaseException as error:
        unread = is_output_closed(error)
        recorder.close("KILLED" if unread else "FAILED", "" if unread else traceback.format_exc())
        _tell_lacking(console, recorder)
        if unread:
            again = run_dirs.command(f"resume {recorder.id}", spec.output_path)
            told = f"nobody reads what the run prints any more, so it stops; {again} goes on"
            output.error(told)
        raise
    _free(spec, recorder)
    recorder.close("FINISHED")
    if outcome.asked is not None and not sweep:  # a sweep stops
        name = "Ctrl-C" if outcome.asked == signal.SIGINT else signal.Signals(outcome.asked).name
        console.print(f"{name} came after the last step, and the run has reached its end")
    with contextlib.suppress(OSError):  # it can be made of the journals again
        results.keep(recorder.folder)
    return outcome, recorder


def _free(spec: RunSpec, recorder: Recorder) -> None:
    """Removes what a run needs only until it ends; what can't be removed takes room, no more."""
    from recipe.checkpoint.files import Checkpoints
    from recipe.store import lineage

    with contextlib.suppress(OSError):
        Checkpoints(recorder.folder, spec.checkpoint).finish()
        lineage.release(recorder.folder)


def _import_for_the_end() -> None:
    """While the run trains, as torch computes without holding Python up."""

    import scipy.special  # noqa: F401

    import recipe.runner.plots  # noqa: F401


def _record_end(recorder: Recorder, outcome: Outcome, command: str) -> None:
    output.task("writing the end of the record")
    from recipe.runner import plots
    from recipe.runner.run_summary import note

    recorder.file("lr.png", lambda path: plots.learning_rates(outcome.history, path))
    recorder.file("curves.png", lambda path: plots.curves(outcome.history, path))
    for name in ("lr.png", "curves.png", "model.safetensors"):
        recorder.artifact(name)
    tags = {"mlflow.note.content": note(outcome, command, recorder.folder)}
    if outcome.no_effect:
        tags["recipe.no_effect"] = ", ".join(outcome.no_effect)
    recorder.tags(tags)


def report(console: Console, outcome: Outcome, recorder: Recorder) -> None:
    """What a person reads at the end of a run."""
    from recipe.runner import parameter_table
    from recipe.runner.run_summary import audit_table
    from recipe.store import run_dirs

    console.print()
    console.print(parameter_table.table(outcome.plan.rows))
    console.print()
    deeds = Table(title="What each trick did", title_justify="left", box=None, pad_edge=False)
    for column in ("trick", "option", "what it did"):
        deeds.add_column(column)
    for deed in outcome.deeds():
        deeds.add_row(*deed)
    console.print(deeds)
    console.print()
    console.print(audit_table(outcome.verdicts))
    console.print()
    for caution in outcome.cautions():
        console.print(f"Caution {caution}", style="yellow", highlight=False, soft_wrap=True)
    if recorder.differing:
        console.print(
            f"Caution {counted(recorder.differing, 'point')} that had been recorded before the run "
            "was taken up came out otherwise; the later ones count",
            style="yellow", soft_wrap=True,
        )  # fmt: skip
    outputs = recorder.folder.parent.parent
    tries = f"predict run={recorder.id} input=<image or folder>"
    lines = [
        f"Result  {outcome.sentence()}",
        f"Record  {relative(recorder.folder)}"
        + (f", in MLflow as {recorder.mlflow_run_id}" if recorder.mlflow_run_id else ""),
    ]
    if recorder.mlflow_run_id:
        lines.append(f"Open    {run_dirs.command('ui', outputs)}")
    lines.append(f"Try it  {run_dirs.command(tries, outputs)}")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    _tell_lacking(console, recorder)


def _tell_lacking(console: Console, recorder: Recorder) -> None:
    if recorder.failure:
        console.print(
            f"MLflow did not take all of it ({recorder.failure}); the whole record is on disk.",
            style="red",
            soft_wrap=True,
        )


def report_again(console: Console, before: Earlier, recorder: Recorder) -> None:
    """Whether the numbers are those of an earlier run that had the same fingerprint."""
    from recipe.compare import agreement

    if before.finished:
        agrees = agreement.compare(before.finished, recorder.folder).sentence
        console.print(f"Again   as {before.finished.name}: {agrees}", soft_wrap=True)
