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

from recipe.nn.locate_nonfinite import UNTRACED, Found, Step, trace_step
from recipe.nn.preserve import preserved
from recipe.training.frozen_cache.inputs import Feed
from recipe.training.run import Run


class Done(NamedTuple):
    """A step; tensors of shape ()."""

    loss: Tensor
    accuracy: Tensor
    norm: Tensor
    bit: Tensor
    """Whether the clip bit."""
    stepped: bool
    """The optimizer did."""
    left_out: bool


def take(run: Run, feed: Feed, model: nn.Module, inputs: Tensor, targets: Tensor, of: int) -> Done:
    """One optimizer step, over a batch of `of` samples or this process's share of it. Raises
    NonFinite before it, if the run is to stop at that."""
    ranks, left_out, stepped = run.ranks, False, False
    run.nonfinite.before_step(run.model, run.device)
    raw, (inputs, goal) = inputs, run.augment(inputs, targets, run.at.augmentation)
    raw, inputs, goal = (ranks.share(each, of) for each in (raw, inputs, goal))
    loss, output = _gradients(run, model, inputs, goal, of)
    run.sharpness(with_gradients(run.optimizer), lambda: _again(run, model, inputs, goal, of))
    run.scaler.unscale_(run.optimizer)
    norm, bit = run.clip(with_gradients(run.optimizer))
    labels = goal if goal.ndim == 1 else goal.argmax(1)
    correct = (output.argmax(1) == labels).float().mean()
    mean_loss, accuracy = ranks.mean(torch.stack([loss.float(), correct]), of)
    if run.nonfinite.refuses(mean_loss, norm, run.scaler):
        step = Step(run.model, run.loss, run.autocast, feed.raw(raw), feed.raw(inputs), goal)
        trace = functools.partial(_traced, run, step, of)
        run.nonfinite.leave_out(mean_loss, norm, run.scaler, trace)
        left_out = True
    else:
        scale = run.scaler.get_scale()
        run.scaler.step(run.optimizer)
        run.scaler.update()
        stepped = run.scaler.get_scale() >= scale  # it shrinks exactly when the step was skipped
    if stepped:
        run.schedule.after_step()
    run.optimizer.zero_grad(set_to_none=True)
    return Done(mean_loss, accuracy, norm.detach().float(), bit, stepped, left_out)


def _gradients(
    run: Run, model: nn.Module, inputs: Tensor, goal: Tensor, of: int
) -> tuple[Tensor, Tensor]:
    """Adds the gradients of a batch of `of` samples, or of this process's share of it, computed in
    `run.accumulate` parts, each weighted by its samples; returns the loss of what is given, shape
    (), and the output, (batch, classes), detached."""
    count, losses, outputs = min(run.accumulate, *run.ranks.shares(of)), [], []
    parts = zip(inputs.tensor_split(count), goal.tensor_split(count), strict=True)
    for part, target in parts:
        with run.autocast():
            output = model(part)
            loss = run.loss(output, target) * (len(part) / len(inputs))
        run.scaler.scale(run.ranks.weighed(loss, of)).backward()
        losses.append(loss.detach())
        outputs.append(output.detach())
    return torch.stack(losses).sum(), torch.cat(outputs)


def _again(run: Run, model: nn.Module, inputs: Tensor, goal: Tensor, of: int) -> None:
    """The gradients of the same batch anew, with the weights as they are now: the same dropout
    masks, and neither buffers nor random streams are moved a second time."""
    run.optimizer.zero_grad(set_to_none=True)
    with preserved(run.model, buffers=True):
        run.nonfinite.rewind()
        _gradients(run, model, inputs, goal, of)


def _traced(run: Run, step: Step, of: int, rewind: Callable[[], None]) -> Found:
    found = trace_step(step, rewind) if run.ranks.alone else Found(UNTRACED)
    return run.ranks.culprit(found, of)


def with_gradients(optimizer: torch.optim.Optimizer) -> list[nn.Parameter]:
    return [p for group in optimizer.param_groups for p in group["params"] if p.grad is not None]
