"""Evaluation without side effects: no gradients, no random numbers, no changed modes."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from recipe.components.data import Split
from recipe.nn.placement import to_device
from recipe.nn.preserve import preserve_model_state

if TYPE_CHECKING:
    from recipe.training.collectives import Collectives

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
                output = forward(model, to_device(inputs, device))
                value = loss(output, targets)
            counting = min(len(targets), counting)  # samples that can't be read are left out
            total += value.float() * counting
            correct += (output.argmax(1) == targets)[:counting].sum()
    total, correct = collectives.all_reduce_sum(torch.stack([total, correct]))
    count = len(split) - len(split.unreadable)
    return {"loss": total.item() / count, "accuracy": correct.item() / count}
