"""The evaluation after an epoch, and the origin of a validation loss that is not finite.

Without side effects: no gradients, no random numbers, no changed modes.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Any

import torch
from torch import Tensor, nn

from recipe.components.data import Batch, Split
from recipe.nn.locate_nonfinite import (
    NOT_LOCATED_REASON,
    NonFiniteLocation,
    find_nonfinite_weight,
    locate_in_evaluation,
)
from recipe.nn.model_state import preserve_model_state
from recipe.training.collectives import Collectives
from recipe.training.frozen_cache.inputs import ModelInputs, uncached_inputs
from recipe.training.nonfinite import NonFiniteError
from recipe.training.run import Run

Metrics = dict[str, float]


def evaluate(
    model: nn.Module,
    split: Split,
    loss: Callable[[Tensor, Tensor], Tensor],
    *,
    forward: Callable[[nn.Module, Tensor], Tensor],
    batch_size: int,
    device: torch.device,
    autocast: Callable[[], AbstractContextManager[Any]],
    collectives: Collectives,
) -> Metrics:
    """`loss` and `accuracy` (from 0 to 1) over a split; every readable sample counts once.

    `forward(model, inputs)` returns the output of a batch. Runs in eval mode without gradients and
    restores the mode of every module.
    """
    total, correct = torch.zeros((), device=device), torch.zeros((), device=device)
    with preserve_model_state(model), torch.inference_mode():
        model.eval()
        batches = torch.arange(len(split)).split(batch_size)
        read = split.batches(collectives.shard_batch(batch, len(batch)) for batch in batches)
        for batch, (inputs, targets) in zip(batches, read, strict=True):
            counting = collectives.local_sample_count(len(batch))
            targets = targets.to(device, non_blocking=True)
            with autocast():
                output = forward(model, inputs.to(device, non_blocking=True))
                value = loss(output, targets)
            counting = min(len(targets), counting)  # samples that can't be read are left out
            total += value.float() * counting
            correct += (output.argmax(1) == targets)[:counting].sum()
    total, correct = collectives.all_reduce_sum(torch.stack([total, correct]))
    count = len(split) - len(split.unreadable)
    return {"loss": total.item() / count, "accuracy": correct.item() / count}


def validate(run: Run, epoch: int) -> Metrics:
    """Metrics of the model that is saved; if that is an average, also of the trained weights."""
    kept = _evaluate_model(
        run, run.average.model, run.frozen_cache.evaluation_inputs(run, epoch - 1), epoch
    )
    metrics = {f"val/{key}": value for key, value in kept.items()}
    if run.average.model is not run.model:
        raw = _evaluate_model(run, run.model, uncached_inputs(run.model, run.data.val), epoch)
        metrics |= {f"val/raw_{key}": value for key, value in raw.items()}
    return metrics


def _evaluate_model(run: Run, model: nn.Module, model_inputs: ModelInputs, epoch: int) -> Metrics:
    """Raises NonFiniteError if the loss or the weights of the model are not finite."""
    run.collectives.sync_buffers(model)
    metrics = evaluate(
        model_inputs.model, model_inputs.split, run.loss, forward=run.evaluation,
        batch_size=run.eval_batch_size, device=run.device, autocast=run.autocast,
        collectives=run.collectives,
    )  # fmt: skip
    what = f"val/loss is {metrics['loss']:g}"
    if math.isfinite(metrics["loss"]):
        found = run.collectives.first_not_none(find_nonfinite_weight(model))
        if found is None:
            return metrics
        what += ", but the weights are not finite"
    else:
        found = NonFiniteLocation(NOT_LOCATED_REASON)
        if run.collectives.has_local_forward:
            found = locate_in_evaluation(model, run.loss, run.autocast, _val_batches(run))
    error, batch, indices = NonFiniteError(what, found), 0, None
    if found.batch is not None:
        batch, indices = found.batch + 1, list(_val_batch_indices(run))[found.batch]
    error.set_location("validation", run.position.step, epoch, batch, run.data.val, indices)
    raise error


def _val_batch_indices(run: Run) -> Iterator[Tensor]:
    yield from torch.arange(len(run.data.val)).split(run.eval_batch_size)


def _val_batches(run: Run) -> Iterator[Batch]:
    for inputs, targets in run.data.val.batches(_val_batch_indices(run)):
        yield inputs.to(run.device, non_blocking=True), targets.to(run.device)
