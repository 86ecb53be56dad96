"""The layout of a cached value: one row per sample, from which a batch is assembled."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

PROBE_BATCH_SIZES = (2, 3)
"""Sizes of two batches, from which the dependence of shapes on the batch size is inferred."""

PLAIN_TYPES = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.memory_format)


@dataclass(frozen=True)
class RowLayout:
    """The layout of a tensor that has `fold` entries per sample in dimension `dim`."""

    dim: int
    fold: int
    shape: tuple[int, ...]
    """Sizes of the other dimensions."""
    order: tuple[int, ...]
    """All dimensions in the order of memory, the outermost first."""
    strides: tuple[int, ...]
    """Strides of all dimensions if `dim` is the outermost; else empty, as they depend on the batch
    size. The tail gets the same memory format as without the cache."""
    dtype: torch.dtype

    @classmethod
    def infer(cls, few: Tensor, more: Tensor) -> RowLayout | None:
        """Infers the layout from batches of PROBE_BATCH_SIZES; None if there is no such layout."""
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
        return self.fold * math.prod(self.shape)

    @property
    def row_bytes(self) -> int:
        return self.row_length * self.dtype.itemsize

    def batch_shape(self, samples: int) -> tuple[int, ...]:
        return (*self.shape[: self.dim], samples * self.fold, *self.shape[self.dim :])

    def to_rows(self, value: Tensor) -> Tensor:
        """Contiguous rows, shape (samples, row_length), each in the order of memory."""
        others = [dim for dim in self.order if dim != self.dim]
        ordered = value.detach().permute(self.dim, *others).contiguous()
        return ordered.view(-1, self.row_length)

    def from_rows(self, rows: Tensor) -> Tensor:
        """The tensor of these rows, shape (samples, row_length); it may share their memory."""
        full = self.batch_shape(len(rows))
        if self.strides:
            return rows.as_strided(full, self.strides)
        others = [dim for dim in self.order if dim != self.dim]
        split = rows.view(full[self.dim], *(full[dim] for dim in others))
        ordered = split.permute(
            *([self.dim, *others].index(dim) for dim in self.order)
        ).contiguous()
        return ordered.permute(*(self.order.index(dim) for dim in range(len(full))))


READABLE_FLAG_LAYOUT = RowLayout(
    dim=0, fold=1, shape=(), order=(0,), strides=(1,), dtype=torch.uint8
)
"""Of a tensor (samples,) that is 1 for samples that could be read, and 0 for others."""


def _contiguous_strides(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Strides of a dense tensor with this order of dimensions."""
    found, step = [0] * len(shape), 1
    for dim in reversed(order):
        found[dim] = step
        step *= shape[dim]
    return tuple(found)


class LinearSize(NamedTuple):
    """A size that is linear in the batch size: `per_sample * samples + offset`."""

    per_sample: int
    offset: int


def evaluate_size(size: Any, count: int) -> Any:
    """The value that `infer_size` described, for a batch of `count` samples."""
    if isinstance(size, LinearSize):
        return size.per_sample * count + size.offset
    return tuple(evaluate_size(item, count) for item in size) if isinstance(size, tuple) else size


class NotCacheableValue(Exception):
    """A value that the tail must compute itself."""


def infer_size(few: Any, more: Any) -> Any:
    """Describes a value for any batch size, given those of PROBE_BATCH_SIZES: integers that differ
    become LinearSize. Raises NotCacheableValue for anything but plain values and tuples of them."""
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
