"""One run from its spec to its record: device environment, build, train, record."""

from __future__ import annotations

import json
import traceback
from collections import defaultdict
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

if TYPE_CHECKING:
    from recipe.outcome import Outcome
    from recipe.plan import Plan
    from recipe.record import Recorder
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
    sweep: Path | None = None,
    tags: Mapping[str, str] | None = None,
) -> tuple[Outcome, Recorder]:
    """Trains and records. An exception ends the run's record as FAILED, Ctrl-C and SIGTERM as
    KILLED, and goes on to the caller."""
    from recipe import plan as planning
    from recipe.data import worker
    from recipe.record import Recorder

    plan = planning.make(spec, run)
    tracking = part(spec, "tracking")(spec.output_path)
    recorder = Recorder(spec.output_path, name, tracking, sweep=sweep)
    try:
        with worker.reported(spec.data.get("workers", 0)):
            _record_start(recorder, spec, plan, sweep)
            recorder.tags(tags or {})
            if spec.summary:
                console.print(str(plan.summary), highlight=False, soft_wrap=True)
            outcome = _train(recorder, plan, console)
            _record_end(recorder, outcome, command)
    except KeyboardInterrupt:
        recorder.close("KILLED")
        raise
    except BaseException:
        recorder.text("error.txt", traceback.format_exc())
        recorder.close("FAILED")
        raise
    recorder.close("FINISHED")
    return outcome, recorder


def _record_start(recorder: Recorder, spec: RunSpec, plan: Plan, sweep: Path | None) -> None:
    from recipe import environment, fingerprint, parameters
    from recipe import plan as planning

    run = plan.run
    hardware = device_part(spec).hardware(run.device)
    commit = environment.git_commit()
    versions = environment.versions()
    recorder.parameters(spec.parameters())
    recorder.tags(
        {
            "recipe.run": recorder.id,
            "recipe.variant": spec.label,
            "recipe.fingerprint": fingerprint.of(spec, run),
            **{f"code.{name}": what for name, what in fingerprint.code(spec, run).items()},
            "recipe.device": hardware,
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


def _train(recorder: Recorder, plan: Plan, console: Console) -> Outcome:
    """Raises NonFinite and BrokenPromise, recorded and shown in full."""
    from recipe.audit import BrokenPromise
    from recipe.nonfinite import NonFinite
    from recipe.outcome import audit_table

    try:
        return _follow(recorder, plan, console)
    except NonFinite as error:
        if best := plan.run.best.epoch:
            weights = _short(recorder.folder / "model.safetensors")
            error.keep(f"the last good weights are {weights} (epoch {best})")
            recorder.artifact("model.safetensors")
        else:
            error.keep("no weights are kept yet, as no epoch had been evaluated")
        recorder.text("nonfinite.json", json.dumps(error.facts(), indent=2) + "\n")
        raise
    except BrokenPromise as error:
        console.print(audit_table(error.verdicts))
        raise


def _follow(recorder: Recorder, plan: Plan, console: Console) -> Outcome:
    from recipe.audit import Audit, BrokenPromise, Verdict
    from recipe.checkpoint import save_weights
    from recipe.outcome import Outcome
    from recipe.progress import Follow
    from recipe.train import train

    history: dict[str, list[tuple[int, float]]] = defaultdict(list)
    verdicts: list[Verdict] = []
    with Audit(plan.spec, plan.run) as audit, Follow(plan.run, console) as follow:
        for point in train(plan.run):
            recorder.metrics(point.step, point.metrics)
            for key, value in point.metrics.items():
                history[key].append((point.step, value))
            if point.improved:
                save_weights(plan.run.best.weights, recorder.folder / "model.safetensors")
            follow.show(point)
            if found := audit.look(point):
                verdicts = found
                recorder.metrics(point.step, {f"audit/{v.group}": float(v.held) for v in found})
                if not all(verdict.held for verdict in found):
                    raise BrokenPromise(found)
    return Outcome(plan, history, verdicts)


def _record_end(recorder: Recorder, outcome: Outcome, command: str) -> None:
    from recipe import plots
    from recipe.outcome import note

    plots.learning_rates(outcome.history, recorder.folder / "lr.png")
    plots.curves(outcome.history, recorder.folder / "curves.png")
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
        f"Record  {_short(recorder.folder)}"
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


def _short(path: Path) -> str:
    return str(path.relative_to(Path.cwd())) if path.is_relative_to(Path.cwd()) else str(path)
