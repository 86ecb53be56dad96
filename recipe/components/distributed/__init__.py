"""Distributed: a class, instantiated with the settings if several processes share a run (torchrun).

It keeps the model the same in all processes; the engine handles ranks and communication. With one
process it isn't instantiated, and the setting has no effect.

- `prepare_model(model) -> model`: called once, before parameters are frozen.
- `before_training(run)`: called once before the first step, when no more code needs the plain
  model.
- `sharded_clip(clip) -> clip`: called once; the clip for gradients in this form.
- `wrap_model(model) -> nn.Module`: called at the start of each epoch; the module that a step calls.
  It leaves the mean of the gradients over the processes in each process.
- `has_local_grad_hooks: bool`: whether hooks of a parameter see the gradient of this process alone.
- `has_local_forward: bool`: whether one process may call the plain model while others don't.
- `is_contiguous_required: bool`: whether weights must be in torch's default memory format.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Protocol

import torch
from torch import nn

from recipe.components.contract import PlannedRun, check


class SharedRun(Protocol):
    """The attributes of a run that `before_training` reads and replaces."""

    model: nn.Module
    optimizer: torch.optim.Optimizer
    param_groups: list[dict[str, Any]]
    device: torch.device


PROBE_SAMPLES = 4


@check("distributed")
def check_distributed(planned: PlannedRun) -> Iterator[str]:
    """Each process must get at least one sample of a full batch, and the loss must be a mean."""
    ranks = planned.collectives
    if ranks.world_size == 1:
        return
    size = planned.settings("data")["batch_size"]
    if size < ranks.world_size:
        yield (
            f"data.batch_size is {size}, but {ranks.world_size} processes share each batch; use "
            f"data.batch_size={ranks.world_size} or more, or fewer processes"
        )
    if planned.settings("data").get("on_bad_file") == "skip":
        yield (
            "data.on_bad_file is skip, but each process would skip only the files that it reads "
            "itself; use data.on_bad_file=stop, or one process"
        )
    if planned.spec.compile:
        yield (
            "compile is true, but compiled models aren't tested with several processes; use "
            "compile=false, or one process"
        )
    if not _is_mean_loss(planned):
        yield (
            f"{planned.choice('loss')} is not a mean over the samples of a batch, so the losses of "
            "the processes don't add up to the loss of the batch; use loss=cross_entropy, or one "
            "process"
        )


def _is_mean_loss(planned: PlannedRun) -> bool:
    """Compares the loss of four samples with the weighted mean over splits of three and one."""
    stream = torch.Generator().manual_seed(0)
    classes = len(planned.data.classes)
    output = torch.randn(PROBE_SAMPLES, classes, generator=stream).to(planned.device)
    target = (torch.arange(PROBE_SAMPLES) % classes).to(planned.device)
    whole, first, last = (
        planned.loss(output[rows], target[rows])
        for rows in (slice(None), slice(PROBE_SAMPLES - 1), slice(PROBE_SAMPLES - 1, None))
    )
    mean = (first * (PROBE_SAMPLES - 1) + last) / PROBE_SAMPLES
    return bool(torch.isclose(whole.float(), mean.float(), rtol=1e-3, atol=1e-5))
