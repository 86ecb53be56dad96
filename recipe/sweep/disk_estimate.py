"""How much disk the runs of a sweep will take."""

from __future__ import annotations

import io
from dataclasses import dataclass

from recipe.config.spec import RunSpec
from recipe.formatting import bytes_, counted
from recipe.sweep.launchers import forkserver


@dataclass(frozen=True)
class Need:
    """Bytes."""

    weights: int
    checkpoint: int


def sentence(spec: RunSpec, jobs: int) -> str | None:
    """What the runs of this and similar specs leave on disk, and how much more one takes while it
    trains; None where no process with torch is at hand to measure it."""
    need = forkserver.asked(measure, spec) if forkserver.AT_WORK else None
    if need is None:
        return None
    every, keep = spec.checkpoint["every"], spec.checkpoint["keep"]
    kept = min(keep, spec.checkpoint["keep_finished"]) if every is not None else 0
    copies = 2 if spec.options["tracking"] == "local" else 1
    each = copies * need.weights + kept * need.checkpoint
    parts = ["weights", *["their copy for MLflow"] * (copies - 1)]
    if kept:
        parts.append(counted(kept, "checkpoint"))
    text = f"about {bytes_(jobs * each)}: {bytes_(each)} for each of {counted(jobs, 'run')} "
    text += f"({', '.join(parts)})"
    if every is not None and keep > kept:
        text += f", {bytes_((keep - kept) * need.checkpoint)} more for each that trains"
    return text


def measure(spec: RunSpec) -> Need | None:
    """Of a run that is built and takes one step without a gradient; None if it can't be."""
    import torch

    from recipe.checkpoint import state
    from recipe.training.build import build
    from recipe.training.run import Best

    try:
        run = build(spec)
        weights = {name: tensor.detach() for name, tensor in run.model.state_dict().items()}
        run.best = Best(1.0, 1, weights)
        for group in run.optimizer.param_groups:
            for parameter in group["params"]:
                parameter.grad = torch.zeros_like(parameter)
        run.optimizer.step()
        run.optimizer.zero_grad()  # as at the end of an epoch
        buffer = io.BytesIO()
        torch.save(state.capture(run), buffer)
    except Exception:  # the first run will say what is wrong
        return None
    size = sum(tensor.numel() * tensor.element_size() for tensor in weights.values())
    return Need(size, buffer.getbuffer().nbytes)
