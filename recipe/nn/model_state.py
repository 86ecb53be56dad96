"""Preserves the modes and buffers of a model, and the random streams."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from recipe.nn import rng


@contextmanager
def preserve_model_state(model: nn.Module, *, buffers: bool = False) -> Iterator[None]:
    """Restores the train/eval mode of each module and all random streams after the block.

    With `buffers`, also restores buffers, such as BatchNorm's statistics.
    """
    modes = [(module, module.training) for module in model.modules()]
    kept = [(buffer, buffer.detach().clone()) for buffer in model.buffers()] if buffers else []
    with rng.isolate_rng():
        try:
            yield
        finally:
            with torch.no_grad():
                for buffer, value in kept:
                    buffer.copy_(value)
            for module, training in modes:
                module.training = training
