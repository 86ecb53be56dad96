"""How a run begins: anew, where it was stopped, or where another one stands; and its record."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

from rich.console import Console

from recipe.checkpoint import transfer
from recipe.checkpoint.files import Checkpoints
from recipe.checkpoint.state import State, streams_of
from recipe.config.instantiate import device_part
from recipe.runner import environment, fingerprint, initial_state, parameter_table
from recipe.runner import plan as planning
from recipe.runner.earlier_runs import Earlier
from recipe.runner.plan import Plan
from recipe.runner.recorder import Recorder
from recipe.store import lineage
from recipe.training.run import Run


def begin(
    recorder: Recorder,
    plan: Plan,
    before: Earlier,
    console: Console,
    *,
    sweep: Path | None,
    tags: Mapping[str, str],
) -> State | None:
    """Records what the run is, if that isn't recorded yet; what it is to go on from, if anything.

    Where it goes on from another run, it is put there.
    """
    if before.goes_on_from and lineage.source(recorder.folder) is None:
        recorder.file("came_from", partial(lineage.keep, checkpoint=before.goes_on_from))
    if not recorder.began:
        _record(recorder, plan, before.fingerprint, sweep)
        if tags:
            recorder.tags(tags)
    elif _text(recorder, "spec.yaml") != plan.spec.to_yaml():  # another place, or it was lost
        recorder.text("spec.yaml", plan.spec.to_yaml())
    saved = _saved(recorder, plan, console) if before.stopped else None
    source, others = lineage.source(recorder.folder), None
    if saved is None and source is not None:
        others = transfer.others(plan.run, plan.spec, source)
    elif saved is None and before.stopped:
        console.print(f"Goes on with {recorder.id}, which starts anew", soft_wrap=True)
    plan.run.ranks.of_first((saved, others))
    if others is not None and source is not None:
        _carry_over(recorder, plan, others, source, console)
    return saved


def follow(plan: Plan) -> State | None:
    """As `begin`, in the processes that don't record: what the first one begins with."""
    nothing: tuple[State | None, transfer.Others | None] = (None, None)
    saved, others = plan.run.ranks.of_first(nothing)
    if others is not None:
        others.carry_over(plan.run, plan.spec)
    return saved


def _saved(recorder: Recorder, plan: Plan, console: Console) -> State | None:
    """The newest checkpoint that can be read; says from where the run goes on."""
    checkpoints = Checkpoints(recorder.folder, plan.spec.checkpoint)
    saved = checkpoints.latest()
    for problem in checkpoints.damaged:
        console.print(f"Caution {problem}", style="yellow", soft_wrap=True)
    if saved:
        step = saved["run"]["position"]["step"]
        console.print(f"Goes on with {recorder.id} after step {step}", soft_wrap=True)
        if told := _reshared(plan.run, saved):
            console.print(told, soft_wrap=True)
    return saved


def _reshared(run: Run, saved: State) -> str | None:
    """What is not as it was where other processes go on."""
    before = len(streams_of(saved["run"]))
    if before == run.ranks.size:
        return None
    processes = "one process" if before == 1 else f"{before} processes"
    return (
        f"It was that of {processes}, and is shared by {run.ranks.size} now: batches, weights and "
        "the optimizer go on as they stood; dropout draws other masks"
    )


def _carry_over(
    recorder: Recorder, plan: Plan, others: transfer.Others, checkpoint: Path, console: Console
) -> None:
    """Starts a run where another one stood; what became of that one's state is told and kept."""
    found = others.carry_over(plan.run, plan.spec)
    other = lineage.other(checkpoint)
    lines = [f"Goes on from {other} after step {plan.run.at.step}"]
    lines += [f"  {line}" for line in found.lines()]
    recorder.text("carried.txt", "\n".join(lines) + "\n")
    recorder.tags({"recipe.resumed_from": other})
    for line in lines:
        console.print(line, soft_wrap=True)


def _text(recorder: Recorder, name: str) -> str | None:
    """What the artifact of that name says; None: it isn't there."""
    path = recorder.folder / name
    return path.read_text(encoding="utf-8", errors="replace") if path.is_file() else None


def _record(recorder: Recorder, plan: Plan, identity: str, sweep: Path | None) -> None:
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
            **{f"start.{name}": what for name, what in initial_state.hashes(run).items()},
            "recipe.steps": str(run.steps),
            "recipe.device": hardware,
            "recipe.processes": str(run.ranks.size),
            **({"recipe.sweep": sweep.name} if sweep else {}),
            **({"mlflow.source.git.commit": commit.removesuffix("-dirty")} if commit else {}),
            **{f"version.{package}": version for package, version in versions.items()},
        }
    )
    recorder.text("spec.yaml", spec.to_yaml())
    recorder.text("plan.txt", planning.as_text(planning.describe(plan)))
    recorder.text("parameters.csv", parameter_table.to_csv(plan.rows))
    recorder.text("summary.txt", f"{plan.summary}\n")
    recorder.text("environment.txt", environment.describe(hardware, run.ranks.size, commit))
    recorder.text("data.json", json.dumps(_facts(run), indent=2) + "\n")
    counts: dict[str, float] = {
        "params/trainable": sum(row.numbers for row in plan.rows if row.trainable),
        "params/total": sum(row.numbers for row in plan.rows),
    }
    if plan.summary.multiply_adds is not None:
        counts["params/multiply_adds"] = plan.summary.multiply_adds
    recorder.metrics(0, counts)
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
        "white_known": data.white_known,
        "digest": data.digest,
    }
