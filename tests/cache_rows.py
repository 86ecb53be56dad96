"""Something to keep: rows of numbers that tell which sample they are of."""

from __future__ import annotations

from collections.abc import Iterator

import torch

from recipe.training.frozen_cache.cache_file import Rows
from recipe.training.frozen_cache.tensor_layout import RowLayout

LAYOUTS = (
    RowLayout(0, 1, (4, 2), (0, 1, 2), (8, 2, 1), torch.float32),
    RowLayout(0, 2, (), (0,), (1,), torch.bfloat16),
)
"""8 floats and 2 of 16 bits a sample."""

SAMPLES = 20


def rows(first: int, count: int) -> Rows:
    """Of some of the samples: each has its number in all its places."""
    numbers = torch.arange(first, first + count)[:, None]
    return tuple(numbers.expand(-1, each.row_length).to(each.dtype) for each in LAYOUTS)


def batches() -> Iterator[tuple[int, Rows]]:
    """Of 8 samples, the last of which comes once more with the ones after it."""
    for first in (0, 8, 12):
        yield first, rows(first, 8)
