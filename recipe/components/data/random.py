"""Random inputs and targets, for benchmarks."""

from __future__ import annotations

import math
from typing import Annotated

import torch
from pydantic import Field, PositiveInt

from recipe.components.contract import has_complete_digest
from recipe.components.data import Data, InMemory, hash_tensors
from recipe.nn import memory_limit


@has_complete_digest
def random(
    split: torch.Generator,
    *,
    n_train: PositiveInt,
    n_val: PositiveInt,
    channels: PositiveInt,
    size: PositiveInt,
    n_classes: Annotated[int, Field(ge=2)],
) -> Data:
    """Draws normal inputs (channels, size, size) and uniform classes from `split`."""
    n, shape = n_train + n_val, (channels, size, size)
    memory_limit.check_free_memory(
        4 * n * math.prod(shape), "data.n_train", "use fewer or smaller images"
    )
    inputs = torch.randn(n, *shape, generator=split)
    targets = torch.randint(n_classes, (n,), generator=split)
    return Data(
        train=InMemory(inputs[:n_train], targets[:n_train]),
        val=InMemory(inputs[n_train:], targets[n_train:]),
        classes=tuple(str(index) for index in range(n_classes)),
        channels=channels,
        size=(size, size),
        mean=(0.0,) * channels,
        std=(1.0,) * channels,
        digest=hash_tensors(inputs, targets, f"random {n_train} {n_classes}"),
    )
