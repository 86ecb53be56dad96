"""How a value that crosses the cut is kept for every sample, and made again for a batch."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

PROBE_BATCH_SIZES = (2, 3)
"""Samples in the two batches that tell how a value depends on their number."""

PLAIN_TYPES = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.memory_format)


@dataclass(frozen=True)
class RowLayout:
    """Of a tensor one of whose dimensions goes by samples, `fold` entries for each."""

    dim: int
    """That dimension."""
    fold: int
    shape: tuple[int, ...]
    """Of the other dimensions."""
    order: tuple[int, ...]
    """All dimensions as they lie in memory, the outermost first."""
    strides: tuple[int, ...]
    """Of all dimensions, in numbers, if `dim` is the outermost; else none are given, as they go
    by the batch's size. What follows sees the memory format that it always saw."""
    dtype: torch.dtype

    @classmethod
    def infer(cls, few: Tensor, more: Tensor) -> RowLayout | None:
        """From a value's tensors in batches of COUNTS samples; None: it can't be kept so."""
        if few.layout != torch.strided or not few.numel() or few.ndim != more.ndim:
            return None
        dims = [dim for dim in range(few.ndim) if few.shape[dim] != more.shape[dim]]
        small, large = PROBE_BATCH_SIZES
        if len(dims) != 1 or few.shape[dims[0]] % small:
            return None
        (dim,) = dims
        fold = few.shape[dim] // small
        if more.shape[dim] != fold * large:
            return None
        strided = few.stride()
        order = sorted(range(few.ndim), key=lambda d: (-strided[d], d != dim))
        shape = tuple(size for d, size in enumerate(few.shape) if d != dim)
        strides: tuple[int, ...] = ()
        if order[0] == dim:
            dense = _contiguous_strides(few.shape, order)
            fit = all(s == d for n, s, d in zip(few.shape, few.stride(), dense, strict=True)
                      if n > 1)  # fmt: skip
            strides = few.stride() if fit else dense
        return cls(dim, fold, shape, tuple(order), strides, few.dtype)

    @property
    def row_length(self) -> int:
        """That are kept of a sample."""
        return self.fold * math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        return self.row_length * self.dtype.itemsize

    def batch_shape(self, samples: int) -> tuple[int, ...]:
        """The shape of the tensor for so many samples."""
        return (*self.shape[: self.dim], samples * self.fold, *self.shape[self.dim :])

    def to_rows(self, value: Tensor) -> Tensor:
        """Shape (samples, numbers), contiguous: each sample's in the order of its memory."""
        others = [dim for dim in self.order if dim != self.dim]
        ordered = value.detach().permute(self.dim, *others).contiguous()
        return ordered.view(-1, self.row_length)

    def from_rows(self, rows: Tensor) -> Tensor:
        """The tensor again, of contiguous rows (samples, numbers); may share their memory."""
        full = self.batch_shape(len(rows))
        if self.strides:
            return rows.as_strided(full, self.strides)
        others = [dim for dim in self.order if dim != self.dim]
        apart = rows.view(full[self.dim], *(full[dim] for dim in others))
        lying = apart.permute(*([self.dim, *others].index(dim) for dim in self.order)).contiguous()
        return lying.permute(*(self.order.index(dim) for dim in range(len(full))))


READABLE_FLAG_LAYOUT = RowLayout(
    dim=0, fold=1, shape=(), order=(0,), strides=(1,), dtype=torch.uint8
)
"""Of a tensor (samples,) that says whether each could be read: 1, else 0."""


def _contiguous_strides(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides without gaps."""
    found, step = [0] * len(shape), 1
    for dim in reversed(order):
        found[dim] = step
        step *= shape[dim]
    return tuple(found)


class LinearSize(NamedTuple):
    """A whole number that depends on how many samples a batch has: `per` * samples + `plus`."""

    per_sample: int
    offset: int


def evaluate_size(size: Any, count: int) -> Any:
    """What `plain` gave, for a batch of `count` samples."""
    if isinstance(size, LinearSize):
        return size.per_sample * count + size.offset
    return tuple(evaluate_size(item, count) for item in size) if isinstance(size, tuple) else size


class NotCacheableValue(Exception):
    """A value that the rest of the model would have to make for itself."""


def infer_size(few: Any, more: Any) -> Any:
    """What a value is in a batch of any size, from those of COUNTS samples: numbers that depend on
    the size as Sized. Raises Unkept for anything but numbers, texts and tuples of them."""
    if isinstance(few, tuple | list) and isinstance(more, tuple | list) and len(few) == len(more):
        return tuple(infer_size(one, other) for one, other in zip(few, more, strict=True))
    if isinstance(few, slice) and few == more:
        return few
    if isinstance(few, PLAIN_TYPES) and type(few) is type(more) and few == more:
        return few
    if type(few) is not int or type(more) is not int:
        raise NotCacheableValue
    small, large = PROBE_BATCH_SIZES
    per = (more - few) // (large - small)
    return LinearSize(per, few - per * small)
