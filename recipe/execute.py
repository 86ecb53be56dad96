"""One run from its spec to its record: device environment, build, train, record."""

from __future__ import annotations

import json
import traceback
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import Console
from rich.table import Table

from recipe import device, settings
from recipe.errors import Problems
from recipe.menu import GROUPS
from recipe.parts import device_part, part, static_problems
from recipe.spec import RunSpec
from recipe.wording import relative

if TYPE_CHECKING:
    from recipe.earlier import Earlier
    from recipe.outcome import Outcome
    from recipe.plan import Plan
    from recipe.record import Recorder
    from recipe.state import State
    from recipe.train import Run


def prepare(spec: RunSpec, problems: Problems) -> Run:
    """Sets the device's environment, imports torch, builds.

    `problems` are those found so far; raises SpecError with them and everything found here.
    """
    # of all parts only the device may be looked at before torch is imported
    before = len(problems)
    for lines in static_problems(spec, ("device",)).values():
        problems += lines
    if len(problems) == before:
        with problems.collect(f"device={spec.options['device']}"):
            device.apply(device_part(spec).environment())
    broken = {"device"} if len(problems) > before else set()

    from recipe.build import build
    from recipe.data import worker

    if root := settings.root_problems(vars(spec)):
        problems += root
        if any(line.startswith(("seed", "epochs")) for line in root):
            broken |= {"data", "scheduler", "freeze"}  # they need these two
    static = static_problems(spec, tuple(group for group in GROUPS if group != "device"))
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
) -> tuple[Outcome, Recorder]:
    """Trains and records; goes on with `before.stopped` if there is one.

    An exception ends the run's record as FAILED, Ctrl-C and SIGTERM as KILLED, and goes on to the
    caller.
    """
    from recipe import plan as planning
    from recipe.data import worker
    from recipe.record import Recorder
    from recipe.training import train_recorded

    tracking = part(spec, "tracking")(spec.output_path)
    if before.stopped:
        recorder = Recorder.reopen(
            before.stopped, tracking, sweep=sweep, fingerprint=before.fingerprint
        )
    else:
        recorder = Recorder(
            spec.output_path, name, tracking, sweep=sweep, fingerprint=before.fingerprint
        )
    try:
        plan = planning.make(spec, run)
        saved = _saved(recorder, spec, console) if before.stopped else None
        with worker.reported(spec.data.get("workers", 0)):
            if not recorder.began:
                _record_start(recorder, plan, before.fingerprint, sweep)
            if tags:
                recorder.tags(tags)
            if spec.summary:
                console.print(str(plan.summary), highlight=False, soft_wrap=True)
            outcome = train_recorded(recorder, plan, console, saved=saved)
            _record_end(recorder, outcome, command)
    except KeyboardInterrupt:
        recorder.close("KILLED")
        console.print(f"Stopped. Go on with: python -m recipe resume {recorder.id}", soft_wrap=True)
        raise
    except BaseException:
        recorder.close("FAILED", traceback.format_exc())
        raise
    recorder.close("FINISHED")
    return outcome, recorder


def _saved(recorder: Recorder, spec: RunSpec, console: Console) -> State | None:
    """The newest checkpoint that can be read; says from where the run goes on."""
    from recipe.checkpoint import Checkpoints

    checkpoints = Checkpoints(recorder.folder, spec.checkpoint)
    saved = checkpoints.latest()
    for problem in checkpoints.damaged:
        console.print(f"Caution {problem}", style="yellow", soft_wrap=True)
    step = saved["run"]["position"]["step"] if saved else 0
    console.print(f"Goes on with {recorder.id} after step {step}", soft_wrap=True)
    return saved


def _record_start(recorder: Recorder, plan: Plan, identity: str, sweep: Path | None) -> None:
    from recipe import environment, fingerprint, parameters
    from recipe import plan as planning

    spec, run = plan.spec, plan.run
    hardware = device_part(spec).hardware(run.device)
    commit = environment.git_commit()
    versions = environment.versions()
    recorder.parameters(spec.parameters())
    recorder.tags(
        {
            "recipe.run": recorder.id,
            "recipe.variant": spec.label,
            "recipe.fingerprint": identity,
            **{f"code.{name}": what for name, what in fingerprint.code(spec, run).items()},
            "recipe.device": hardware,
            "recipe.steps": str(run.steps),
            **({"recipe.sweep": sweep.name} if sweep else {}),
            **({"mlflow.source.git.commit": commit.removesuffix("-dirty")} if commit else {}),
            **{f"version.{package}": version for package, version in versions.items()},
        }
    )
    recorder.text("spec.yaml", spec.to_yaml())
    recorder.text("plan.txt", planning.as_text(planning.describe(plan)))
    recorder.text("parameters.csv", parameters.to_csv(plan.rows))
    recorder.text("summary.txt", f"{plan.summary}\n")
    recorder.text("environment.txt", environment.describe(hardware, commit))
    recorder.text("data.json", json.dumps(_facts(run), indent=2) + "\n")
    recorder.metrics(
        0,
        {
            "params/trainable": sum(row.numbers for row in plan.rows if row.trainable),
            "params/total": sum(row.numbers for row in plan.rows),
        },
    )
    recorder.begin()


def _facts(run: Run) -> dict[str, object]:
    """What it takes to treat a new image as the training images were."""
    data = run.data
    return {
        "classes": list(data.classes),
        "channels": data.channels,
        "size": list(data.size),
        "mean": list(data.mean),
        "std": list(data.std),
        "digest": data.digest,
    }


def _record_end(recorder: Recorder, outcome: Outcome, command: str) -> None:
    from recipe import plots
    from recipe.outcome import note

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
    from recipe import parameters
    from recipe.outcome import audit_table

    console.print()
    console.print(parameters.table(outcome.plan.rows))
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
    lines = [
        f"Result  {outcome.sentence()}",
        f"Record  {relative(recorder.folder)}"
        + (f", in MLflow as {recorder.mlflow_run_id}" if recorder.mlflow_run_id else ""),
    ]
    if recorder.mlflow_run_id:
        lines.append("Open    python -m recipe ui")
    lines.append(f"Try it  python -m recipe predict run={recorder.id} input=<image or folder>")
    for line in lines:
        console.print(line, highlight=False, soft_wrap=True)
    if recorder.failure:
        console.print(
            f"MLflow did not take all of it ({recorder.failure}); the whole record is on disk.",
            style="red",
            soft_wrap=True,
        )
