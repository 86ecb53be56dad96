"""Checks what a `data` component returned, and computes its digest."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import torch
from torch import Tensor

from recipe.components.data.dataset import Data, InMemory, Split, SplitAdapter
from recipe.components.data.digest import hash_tensors
from recipe.nn import rng

MAX_STREAMED_DIGEST_BYTES = 64 * 2**20
IN_MEMORY_DIGEST_SAMPLES = 16  # whose transformed inputs are in the digest, too


def check_data(returned: object) -> Data:
    """Returns the Data of a component, with each split as a `Split`.

    Raises ValueError for anything else, and for a split without valid targets.
    """
    if not isinstance(returned, Data):
        raise ValueError(
            f"returns {_describe_type(returned)}; return recipe.components.data.Data("
            "train=..., val=..., classes=..., channels=..., size=..., mean=..., std=...), "
            "with train and val as recipe.components.data.InMemory(inputs, targets)"
        )
    if not isinstance(returned.size, tuple | list) or len(returned.size) != 2:
        raise ValueError(f"returns size={returned.size}; return (height, width)")
    for name, split in returned.splits.items():
        lacking = [part for part in ("targets", "batches", "__len__") if not hasattr(split, part)]
        if lacking:
            raise ValueError(
                f"returns {_describe_type(split)} as {name}, which has no "
                f"{' and no '.join(lacking)}; return recipe.components.data.InMemory(inputs, "
                "targets), or a class with the methods of recipe.components.data.Split"
            )
        _check_targets(name, split)
    for name, split in returned.splits.items():
        if not isinstance(split, Split):
            returned = replace(returned, **{name: SplitAdapter(split)})
    return returned


def hash_data(data: Data) -> str:
    """Returns a hash of all fields of `data`, including its digest.

    For an InMemory split, it covers all inputs and targets; for any other split, all targets and up
    to 64 MiB of the inputs of evenly spaced samples, or no inputs if they differ each time they are
    read.
    """
    facts = (data.classes, data.channels, data.size, data.mean, data.std)
    parts: list[Tensor | str] = [data.digest, *map(str, facts)]
    for name, split in data.splits.items():
        parts += [name, split.targets]
        if isinstance(split, InMemory):
            parts.append(split.inputs)
        parts += _read_spaced_inputs(split)
    return hash_tensors(*parts)


def _describe_type(value: object) -> str:
    if isinstance(value, tuple | list):
        return f"a {type(value).__name__} of {', '.join(type(each).__name__ for each in value)}"
    return f"a {type(value).__name__}"


def _check_targets(name: str, split: Split) -> None:
    """Raises ValueError unless there is one class index per sample."""
    targets, count = split.targets, len(split)
    if isinstance(split, InMemory):
        count = len(split.inputs)
    if isinstance(targets, Tensor) and targets.dtype == torch.int64 and targets.shape == (count,):
        return
    shown = _describe_type(targets)
    if isinstance(targets, Tensor):
        shown = f"{targets.dtype} of shape {tuple(targets.shape)}".removeprefix("torch.")
    raise ValueError(
        f"returns {name} with targets that are {shown}; return one class index per sample, "
        f"torch.int64 of shape ({count},)"
    )


def _read_spaced_inputs(split: Split) -> Iterator[Tensor]:
    """Yields the inputs that the model gets for evenly spaced samples of the split."""

    def read(samples: Tensor) -> list[Tensor]:
        with rng.isolate_seeded_rng(0, "digest"):
            return [inputs for inputs, _ in split.batches(samples.split(64))]

    if not len(split):
        return
    (one,), (again,) = read(torch.zeros(1, dtype=torch.int64)), read(torch.zeros(1).long())
    if not torch.equal(one, again):
        return
    count = IN_MEMORY_DIGEST_SAMPLES
    if not isinstance(split, InMemory):
        count = max(1, MAX_STREAMED_DIGEST_BYTES // max(1, one.nbytes))
    spaced = torch.linspace(0, len(split) - 1, min(count, len(split)), dtype=torch.float64)
    yield from read(spaced.long())
