"""Before the first step: the range of all targets, a batch through augmentation, model and loss.

What would otherwise only show in the middle of a step, or not at all because shapes broadcast.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from recipe import streams
from recipe.data import Data
from recipe.errors import Problems
from recipe.evaluate import preserved
from recipe.spec import RunSpec


def check_targets(data: Data) -> None:
    """Raises ValueError for a class index outside [0, classes)."""
    for split, name in ((data.train, "training"), (data.val, "validation")):
        low, high = int(split.targets.min()), int(split.targets.max())
        if low < 0 or high >= len(data.classes):
            raise ValueError(
                f"data: a {name} target is {low if low < 0 else high}, "
                f"outside [0, {len(data.classes)})"
            )


def check_batch(
    spec: RunSpec,
    data: Data,
    model: nn.Module,
    augment: Any,
    loss: Any,
    autocast: Any,
    device: torch.device,
) -> Problems:
    """What goes wrong when a small batch goes through augmentation, model and loss."""
    problems = Problems()
    inputs, targets = next(iter(data.train.batches([torch.arange(min(2, len(data.train)))])))
    inputs, targets = inputs.to(device), targets.to(device)
    expected = len(inputs), len(data.classes)
    with preserved(model), torch.inference_mode(), autocast():
        model.eval()
        with problems.collect(f"augment={spec.options['augment']}"):
            stream = streams.generator(spec.seed, "augmentation")
            inputs, targets = augment(inputs, targets, stream)
        if problems:
            return problems
        with problems.collect(f"model={spec.options['model']}"):
            try:
                output = model(inputs)
            except RuntimeError as error:
                raise ValueError(
                    f"can't take inputs of shape {tuple(inputs.shape[1:])}: "
                    f"{str(error).splitlines()[0]}"
                ) from error
            if not isinstance(output, Tensor) or tuple(output.shape) != expected:
                shape = tuple(output.shape) if isinstance(output, Tensor) else type(output).__name__
                raise ValueError(
                    f"gives {shape} for {len(inputs)} inputs, but the data have "
                    f"{expected[1]} classes; it must give {expected}"
                )
        if problems:
            return problems
        with problems.collect(f"loss={spec.options['loss']}"):
            try:
                value = loss(output, targets)
            except RuntimeError as error:
                raise ValueError(str(error).splitlines()[0]) from error
            if value.shape != ():
                raise ValueError(f"gives shape {tuple(value.shape)}, not ()")
    return problems
