"""Starts a run: from scratch, from its last checkpoint, or from that of another run."""

from __future__ import annotations

import json
from collections.abc import Mapping
from functools import partial
from pathlib import Path

import torch
from rich.console import Console

from recipe.checkpoint import transfer
from recipe.checkpoint.files import Checkpoints
from recipe.checkpoint.state import RunState, get_rng_states
from recipe.runner import environment, fingerprint, parameter_table
from recipe.runner import plan as planning
from recipe.runner.console import print_caution
from recipe.runner.earlier_runs import EarlierRuns
from recipe.runner.plan import Plan
from recipe.runner.recorder import Recorder
from recipe.store import lineage
from recipe.training.run import Run


def start_run(
    recorder: Recorder,
    plan: Plan,
    earlier_runs: EarlierRuns,
    console: Console,
    *,
    sweep: Path | None,
    tags: Mapping[str, str],
) -> RunState | None:
    """Records the run's metadata unless they are recorded, and returns the checkpoint from which it
    resumes, or None.

    If it starts from a checkpoint of another run, that state is loaded here.
    """
    if earlier_runs.source_checkpoint and lineage.find_parent_checkpoint(recorder.run_dir) is None:
        recorder.write_file(
            "came_from", partial(lineage.store_parent, checkpoint=earlier_runs.source_checkpoint)
        )
    if not recorder.is_started:
        _record_metadata(recorder, plan, earlier_runs.fingerprint, sweep)
        if tags:
            recorder.set_tags(tags)
    else:
        path, spec = recorder.run_dir / "spec.yaml", plan.spec.to_yaml()
        if not path.is_file() or path.read_text("utf-8", "replace") != spec:  # the outputs moved
            recorder.log_text("spec.yaml", spec)
    saved = None
    if earlier_runs.interrupted_run_dir:
        saved = _load_latest_checkpoint(recorder, plan, console)
    source, others = lineage.find_parent_checkpoint(recorder.run_dir), None
    if saved is None and source is not None:
        others = transfer.load_source_checkpoint(plan.run, plan.spec, source)
    elif saved is None and earlier_runs.interrupted_run_dir:
        console.print(f"Resumes {recorder.run_id} from scratch", soft_wrap=True)
    plan.run.collectives.broadcast((saved, others))
    if others is not None and source is not None:
        _transfer_state(recorder, plan, others, source, console)
    return saved


def join_run(plan: Plan) -> RunState | None:
    """As `start_run`, in the processes that don't record; receives the first one's checkpoint."""
    nothing: tuple[RunState | None, transfer.SourceCheckpoint | None] = (None, None)
    saved, others = plan.run.collectives.broadcast(nothing)
    if others is not None:
        others.transfer_to(plan.run, plan.spec)
    return saved


def _load_latest_checkpoint(recorder: Recorder, plan: Plan, console: Console) -> RunState | None:
    """The newest readable checkpoint; prints the step from which the run resumes."""
    checkpoints = Checkpoints(recorder.run_dir, plan.spec.checkpoint)
    saved = checkpoints.load_latest()
    for problem in checkpoints.damaged_files:
        print_caution(console, problem)
    if saved:
        step = saved["run"]["position"]["step"]
        console.print(f"Resumes {recorder.run_id} after step {step}", soft_wrap=True)
        if message := _describe_world_size_change(plan.run, saved):
            console.print(message, soft_wrap=True)
    return saved


def _describe_world_size_change(run: Run, saved: RunState) -> str | None:
    """What differs if the number of processes has changed; None if it hasn't."""
    before = len(get_rng_states(saved["run"]))
    if before == run.collectives.world_size:
        return None
    processes = "one process" if before == 1 else f"{before} processes"
    return (
        f"The run had {processes}, and has {run.collectives.world_size} now: batches, weights and "
        "the optimizer continue exactly; dropout draws other masks"
    )


def _transfer_state(
    recorder: Recorder,
    plan: Plan,
    others: transfer.SourceCheckpoint,
    checkpoint: Path,
    console: Console,
) -> None:
    """Loads another run's state; prints and records what was carried over."""
    found = others.transfer_to(plan.run, plan.spec)
    other = lineage.get_parent_run_id(checkpoint)
    lines = [f"Starts from {other} after step {plan.run.position.step}"]
    lines += [f"  {line}" for line in found.format_lines()]
    recorder.log_text("carried.txt", "\n".join(lines) + "\n")
    recorder.set_tags({"recipe.resumed_from": other})
    for line in lines:
        console.print(line, soft_wrap=True)


def _record_metadata(
    recorder: Recorder, plan: Plan, fingerprint_hash: str, sweep: Path | None
) -> None:
    spec, run = plan.spec, plan.run
    hardware = run.components["device"].bind()().hardware(run.device)
    commit = environment.get_git_commit()
    versions = environment.get_versions()
    recorder.log_params(spec.to_parameters())
    recorder.set_tags(
        {
            "recipe.run": recorder.run_id,
            "recipe.variant": spec.label,
            "recipe.fingerprint": fingerprint_hash,
            **{
                f"code.{name}": what
                for name, what in fingerprint.get_code_versions(spec, run).items()
            },
            **{f"start.{name}": what for name, what in fingerprint.hash_initial_state(run).items()},
            "recipe.steps": str(run.total_steps),
            "recipe.device": hardware,
            "recipe.processes": str(run.collectives.world_size),
            **({"recipe.sweep": sweep.name} if sweep else {}),
            **({"mlflow.source.git.commit": commit.removesuffix("-dirty")} if commit else {}),
            **{f"version.{package}": version for package, version in versions.items()},
        }
    )
    recorder.log_text("spec.yaml", spec.to_yaml())
    recorder.log_text("plan.txt", planning.render_as_text(planning.render_plan(plan)))
    recorder.log_text("parameters.csv", parameter_table.to_csv(plan.parameter_rows))
    recorder.log_text("summary.txt", f"{plan.model_summary}\n")
    recorder.log_text(
        "environment.txt",
        environment.describe(hardware, torch.get_num_threads(), run.collectives.world_size, commit),
    )
    recorder.log_text("data.json", json.dumps(_collect_data_facts(run), indent=2) + "\n")
    counts: dict[str, float] = {
        "params/trainable": sum(row.numbers for row in plan.parameter_rows if row.trainable),
        "params/total": sum(row.numbers for row in plan.parameter_rows),
    }
    if plan.model_summary.multiply_adds is not None:
        counts["params/multiply_adds"] = plan.model_summary.multiply_adds
    recorder.log_metrics(0, counts)
    recorder.mark_started()


def _collect_data_facts(run: Run) -> dict[str, object]:
    """What is needed to process new images as the training images were."""
    data = run.data
    return {
        "classes": list(data.classes),
        "channels": data.channels,
        "size": list(data.size),
        "mean": list(data.mean),
        "std": list(data.std),
        "white_known": data.has_known_white,
        "digest": data.digest,
    }
