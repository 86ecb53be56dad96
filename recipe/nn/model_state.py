"""Modes, random streams and buffers of a model, restored after a block."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from recipe.nn import rng


@contextmanager
def preserve_model_state(model: nn.Module, *, buffers: bool = False) -> Iterator[None]:
    """Afterwards every module's train/eval mode and every random stream is as it was before.

    With `buffers` the buffers too, such as BatchNorm's statistics, which training mode moves.
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
