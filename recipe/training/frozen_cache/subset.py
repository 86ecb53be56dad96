"""A split with the model that is called with it, and the rows to cache for its samples."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from recipe.components.average import Average
from recipe.components.data import Data, Split, readable_indices
from recipe.nn import rng
from recipe.training.freezing import FreezeSchedule
from recipe.training.frozen_cache import NotCacheable, tensor_layout, verify
from recipe.training.frozen_cache.cache_file import Rows
from recipe.training.frozen_cache.split_model import ModelSplit
from recipe.training.frozen_cache.tensor_layout import PROBE_BATCH_SIZES


class CachedRun(Protocol):
    """What the cache reads of a run."""

    epochs: int
    batch_size: int
    eval_batch_size: int
    device: torch.device
    data: Data
    model: nn.Module
    freeze_schedule: FreezeSchedule
    average: Average

    @property
    def autocast(self) -> Callable[[], AbstractContextManager[Any]]: ...


@dataclass(frozen=True)
class Subset:
    """A split, and the model that is called with it in training or eval mode."""

    name: str
    model: nn.Module
    is_training: bool
    data: Split
    batch_size: int

    def index_batches(self) -> Iterator[tuple[int, Tensor]]:
        """All samples in batches, each with its first index.

        Batches are those of an evaluation. In training, the last batch is full as well and overlaps
        the one before, as a sample is nearly always in a full batch.
        """
        count = len(self.data)
        for first in range(0, count, self.batch_size):
            end = min(first + self.batch_size, count)
            first = max(0, end - self.batch_size) if self.is_training else first
            yield first, torch.arange(first, end)


def training_subset(run: CachedRun) -> Subset:
    return Subset("train", run.model, True, run.data.train, run.batch_size)


def read_samples(run: CachedRun, part: Subset) -> Tensor:
    """A few inputs; raises NotCacheable if they differ each time they are read."""
    few = part.data.first_readable_indices(max(PROBE_BATCH_SIZES))
    few = few[torch.arange(max(PROBE_BATCH_SIZES)) % len(few)]
    before = rng.snapshot_rng()
    (one, _), (other, _) = part.data.batches([few, few])
    if rng.snapshot_rng() != before or not verify.is_bit_identical(one, other):
        raise NotCacheable("the data are not the same each time they are read")
    return one.to(run.device, non_blocking=True)


def skip_unreadable(data: Split, flags: Tensor) -> None:
    """Skips the samples that couldn't be read when the cache was written."""
    samples = (flags[:, 0] == 0).nonzero().flatten().tolist()
    new = torch.tensor(readable_indices(data, samples), dtype=torch.int64)
    if any(found for found, _ in data.iterate_readable_inputs(new.split(1))):
        raise NotCacheable("a file that could not be read before can be read now")


def compute_rows(run: CachedRun, part: Subset, split: ModelSplit) -> Iterator[tuple[int, Rows]]:
    """The rows to cache, computed in the same mode and gradient mode as without a cache."""
    chunks = list(part.index_batches())
    read = part.data.iterate_readable_inputs(chunk for _, chunk in chunks)
    for (start, chunk), (samples, inputs) in zip(chunks, read, strict=True):
        rows: Rows = ()
        if samples:
            with torch.inference_mode(not part.is_training), run.autocast():
                values = split.run_prefix(inputs.to(run.device, non_blocking=True))
            pairs = zip(split.layouts, values, strict=True)
            rows = tuple(each.to_rows(value).cpu() for each, value in pairs)
        if part.data.skips_unreadable:
            places = torch.tensor(samples, dtype=torch.int64) - start
            rows = _scatter_rows(rows, split, places, len(chunk))
        yield start, rows


def _scatter_rows(rows: Rows, split: ModelSplit, places: Tensor, count: int) -> Rows:
    """Rows for `count` samples: those given at these positions, zeros elsewhere; and the flags."""
    spread = [torch.zeros(count, each.row_length, dtype=each.dtype) for each in split.layouts]
    for complete, given in zip(spread, rows, strict=False):
        complete[places] = given
    flags = torch.zeros(count, 1, dtype=tensor_layout.READABLE_FLAG_LAYOUT.dtype)
    flags[places] = 1
    return (*spread, flags)
