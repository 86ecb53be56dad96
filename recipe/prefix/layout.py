"""How a value that crosses the cut is kept for every sample, and made again for a batch."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

COUNTS = (2, 3)
"""Samples in the two batches that tell how a value depends on their number."""

PLAIN = (bool, int, float, str, type(None), torch.dtype, torch.device, torch.memory_format)


@dataclass(frozen=True)
class Layout:
    """Of a tensor whose first dimension goes by samples, `fold` entries for each."""

    shape: tuple[int, ...]
    """Of the other dimensions."""
    fold: int
    strides: tuple[int, ...]
    """Of all dimensions, in numbers: what follows sees the memory format it always saw."""
    dtype: torch.dtype

    @classmethod
    def of(cls, few: Tensor, more: Tensor) -> Layout | None:
        """From a value's tensors in batches of COUNTS samples; None: it can't be kept so."""
        small, large = COUNTS
        if few.ndim == 0 or few.layout != torch.strided or not few.numel():
            return None
        fold, rest = divmod(len(few), small)
        if rest or len(more) != fold * large or few.shape[1:] != more.shape[1:]:
            return None
        shape = tuple(few.shape[1:])
        dense = _dense(shape, few.stride()[1:])
        strides = few.stride() if _fit((len(few), *shape), few.stride(), dense) else dense
        return cls(shape, fold, tuple(strides), few.dtype)

    @property
    def numbers(self) -> int:
        """That are kept of a sample."""
        return self.fold * math.prod(self.shape)

    @property
    def bytes(self) -> int:
        return self.numbers * self.dtype.itemsize

    def rows(self, value: Tensor) -> Tensor:
        """Shape (samples, numbers), contiguous: each sample's in the order of its memory."""
        order = sorted(range(1, value.ndim), key=lambda dim: -self.strides[dim])
        ordered = value.detach().permute(0, *order).contiguous()
        return ordered.view(len(value) // self.fold, self.numbers)

    def value(self, rows: Tensor) -> Tensor:
        """The tensor again, of contiguous rows (samples, numbers); shares their memory."""
        return rows.as_strided((len(rows) * self.fold, *self.shape), self.strides)


def _dense(shape: tuple[int, ...], strides: tuple[int, ...]) -> tuple[int, ...]:
    """Strides without gaps, the dimensions in the same order, the first one outermost."""
    found, step = [0] * len(shape), 1
    for dim in sorted(range(len(shape)), key=lambda dim: -strides[dim])[::-1]:
        found[dim] = step
        step *= shape[dim]
    return (step, *found)


def _fit(shape: tuple[int, ...], strides: tuple[int, ...], dense: tuple[int, ...]) -> bool:
    """Whether strides are those without gaps, wherever they say anything."""
    return all(s == d for size, s, d in zip(shape, strides, dense, strict=True) if size > 1)


class Sized(NamedTuple):
    """A whole number that depends on how many samples a batch has: `per` * samples + `plus`."""

    per: int
    plus: int


def sized(size: Any, count: int) -> Any:
    """What `plain` gave, for a batch of `count` samples."""
    if isinstance(size, Sized):
        return size.per * count + size.plus
    return tuple(sized(item, count) for item in size) if isinstance(size, tuple) else size


class Unkept(Exception):
    """A value that the rest of the model would have to make for itself."""


def plain(few: Any, more: Any) -> Any:
    """What a value is in a batch of any size, from those of COUNTS samples: numbers that depend on
    the size as Sized. Raises Unkept for anything but numbers, texts and tuples of them."""
    if isinstance(few, tuple | list) and isinstance(more, tuple | list) and len(few) == len(more):
        return tuple(plain(one, other) for one, other in zip(few, more, strict=True))
    if isinstance(few, slice) and few == more:
        return few
    if not isinstance(few, PLAIN) or type(few) is not type(more):
        raise Unkept
    if few == more:
        return few
    if type(few) is not int:
        raise Unkept
    small, large = COUNTS
    per = (more - few) // (large - small)
    return Sized(per, few - per * small)
