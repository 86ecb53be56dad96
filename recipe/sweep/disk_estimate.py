"""How much disk the runs of a sweep will take."""

from __future__ import annotations

import io
from dataclasses import dataclass

from recipe.config.spec import RunSpec
from recipe.formatting import format_bytes, pluralize
from recipe.sweep.launchers import forkserver


@dataclass(frozen=True)
class RunSize:
    """Bytes."""

    weights_bytes: int
    checkpoint_bytes: int


def format_disk_estimate(spec: RunSpec, jobs: int) -> str | None:
    """What the runs of this and similar specs leave on disk, and how much more one takes while it
    trains; None where no process with torch is at hand to measure it."""
    need = (
        forkserver.call_in_helper(measure_run_size, spec) if forkserver.FORKSERVER_THREADS else None
    )
    if need is None:
        return None
    every, keep = spec.checkpoint["every"], spec.checkpoint["keep"]
    kept = min(keep, spec.checkpoint["keep_finished"]) if every is not None else 0
    copies = 2 if spec.options["tracking"] == "local" else 1
    each = copies * need.weights_bytes + kept * need.checkpoint_bytes
    parts = ["weights", *["their copy for MLflow"] * (copies - 1)]
    if kept:
        parts.append(pluralize(kept, "checkpoint"))
    text = (
        f"about {format_bytes(jobs * each)}: {format_bytes(each)} for each of "
        f"{pluralize(jobs, 'run')} "
    )
    text += f"({', '.join(parts)})"
    if every is not None and keep > kept:
        text += f", {format_bytes((keep - kept) * need.checkpoint_bytes)} more for each that trains"
    return text


def measure_run_size(spec: RunSpec) -> RunSize | None:
    """Of a run that is built and takes one step without a gradient; None if it can't be."""
    import torch

    from recipe.checkpoint import state
    from recipe.training.build import build
    from recipe.training.run import BestEpoch

    try:
        run = build(spec)
        weights = {name: tensor.detach() for name, tensor in run.model.state_dict().items()}
        run.best = BestEpoch(1.0, 1, weights)
        for group in run.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        run.optimizer.step()
        run.optimizer.zero_grad()  # as at the end of an epoch
        buffer = io.BytesIO()
        torch.save(state.capture_state(run), buffer)
    except Exception:  # the first run will say what is wrong
        return None
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    return RunSize(size, buffer.getbuffer().nbytes)
