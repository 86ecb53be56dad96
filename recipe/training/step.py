"""A training step.

Its order, once and for all: augment -> forward (autocast) -> loss -> backward, for each part of the
batch -> sharpness -> unscale -> clip -> optimizer (only with finite numbers) -> scheduler and
average (only if the optimizer stepped).
"""

from __future__ import annotations

import functools
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from recipe.nn.locate_nonfinite import (
    NOT_LOCATED_REASON,
    NonFiniteLocation,
    StepInputs,
    locate_in_step,
)
from recipe.nn.model_state import preserve_model_state
from recipe.training.frozen_cache.inputs import ModelInputs
from recipe.training.run import Run


class StepOutput(NamedTuple):
    """A step; tensors of shape ()."""

    loss: Tensor
    accuracy: Tensor
    grad_norm: Tensor
    is_clipped: Tensor
    has_stepped: bool
    """The optimizer did."""
    is_skipped: bool


def training_step(
    run: Run,
    model_inputs: ModelInputs,
    model: nn.Module,
    inputs: Tensor,
    targets: Tensor,
    batch_size: int,
) -> StepOutput:
    """One optimizer step over a batch of `batch_size` samples, or this process's shard of it.

    Raises NonFiniteError before the optimizer steps if the loss or a gradient is not finite and
    the run is to stop then.
    """
    ranks, left_out, stepped = run.collectives, False, False
    run.nonfinite_guard.before_step(run.model, run.device)
    raw, (inputs, goal) = inputs, run.augment(inputs, targets, run.position.augmentation_rng)
    raw, inputs, goal = (ranks.shard_batch(each, batch_size) for each in (raw, inputs, goal))
    loss, output = _accumulate_gradients(run, model, inputs, goal, batch_size)
    run.sharpness(
        params_with_grad(run.optimizer),
        lambda: _recompute_gradients(run, model, inputs, goal, batch_size),
    )
    run.scaler.unscale_(run.optimizer)
    norm, clipped = run.clip(params_with_grad(run.optimizer))
    labels = goal if goal.ndim == 1 else goal.argmax(1)
    correct = (output.argmax(1) == labels).float().mean()
    mean_loss, accuracy = ranks.all_reduce_mean(torch.stack([loss.float(), correct]), batch_size)
    if run.nonfinite_guard.must_skip_step(mean_loss, norm, run.scaler):
        step = StepInputs(
            run.model,
            run.loss,
            run.autocast,
            model_inputs.to_raw_inputs(raw),
            model_inputs.to_raw_inputs(inputs),
            goal,
        )
        trace = functools.partial(_locate_nonfinite, run, step, batch_size)
        run.nonfinite_guard.skip_batch(mean_loss, norm, run.scaler, trace)
        left_out = True
    else:
        scale = run.scaler.get_scale()
        run.scaler.step(run.optimizer)
        run.scaler.update()
        stepped = run.scaler.get_scale() >= scale  # it shrinks exactly when the step was skipped
    if stepped:
        run.lr_schedule.after_step()
    run.optimizer.zero_grad(set_to_none=True)
    return StepOutput(mean_loss, accuracy, norm.detach().float(), clipped, stepped, left_out)


def _accumulate_gradients(
    run: Run, model: nn.Module, inputs: Tensor, goal: Tensor, batch_size: int
) -> tuple[Tensor, Tensor]:
    """Accumulates gradients over `run.accumulate` micro-batches, weighted by their samples.

    Returns the loss of the local samples, shape (), and the output, (batch, classes), detached.
    """
    count, losses, outputs = min(run.accumulate, *run.collectives.shard_sizes(batch_size)), [], []
    parts = zip(inputs.tensor_split(count), goal.tensor_split(count), strict=True)
    for part, target in parts:
        with run.autocast():
            output = model(part)
            loss = run.loss(output, target) * (len(part) / len(inputs))
        run.scaler.scale(run.collectives.scale_loss(loss, batch_size)).backward()
        losses.append(loss.detach())
        outputs.append(output.detach())
    return torch.stack(losses).sum(), torch.cat(outputs)


def _recompute_gradients(
    run: Run, model: nn.Module, inputs: Tensor, goal: Tensor, batch_size: int
) -> None:
    """The gradients of the same batch with the current weights and the same dropout masks.

    Buffers are restored afterwards.
    """
    run.optimizer.zero_grad(set_to_none=True)
    with preserve_model_state(run.model, buffers=True):
        run.nonfinite_guard.restore_rng()
        _accumulate_gradients(run, model, inputs, goal, batch_size)


def _locate_nonfinite(
    run: Run, step: StepInputs, batch_size: int, rewind: Callable[[], None]
) -> NonFiniteLocation:
    found = NonFiniteLocation(NOT_LOCATED_REASON)
    if run.collectives.has_local_forward:
        found = locate_in_step(step, rewind)
    return run.collectives.gather_nonfinite(found, batch_size)


def params_with_grad(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
