"""Data: the splits that a run trains and validates on, and the interface that a split has."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor

Batch = tuple[Tensor, Tensor]
"""Inputs (n, channels, height, width) float32, normalised; class indices (n,) int64."""


class MinimalSplit(Protocol):
    """Samples accessed by index: what a user's class must provide at least."""

    @property
    def targets(self) -> Tensor:
        """Class index of every sample, shape (n,), int64."""
        ...

    def __len__(self) -> int: ...

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        """For each tensor of indices, one batch with these samples in the same order.

        Samples that the split skips as unreadable are missing from their batch.
        """
        ...


@runtime_checkable
class Split(MinimalSplit, Protocol):
    """A split as the engine uses it; some of its samples may turn out to be unreadable."""

    @property
    def skips_unreadable(self) -> bool:
        """Whether samples that can't be read are skipped; if not, reading one raises DataError."""
        ...

    @property
    def unreadable(self) -> dict[int, str]:
        """The reason for each sample skipped so far, by index."""
        ...

    @property
    def file_names(self) -> Sequence[str]:
        """The file of each sample; empty if samples aren't read from files."""
        ...

    @property
    def packages(self) -> set[str]:
        """Names of the top-level packages whose code computes the inputs."""
        ...

    def first_readable_indices(self, count: int) -> Tensor:
        """Indices of the first `count` samples that can be read.

        A smaller split that skips samples returns fewer indices, any other repeats its own. Raises
        DataError if no sample can be read.
        """
        ...

    def iterate_readable_inputs(
        self, batches: Iterable[Tensor]
    ) -> Iterator[tuple[list[int], Tensor]]:
        """For each tensor of indices, those of the samples that can be read, and their inputs."""
        ...


class AlwaysReadable:
    """The part of `Split` that is the same for all splits whose samples can always be read."""

    skips_unreadable = False
    file_names: Sequence[str] = ()

    @property
    def unreadable(self) -> dict[int, str]:
        return {}

    @property
    def packages(self) -> set[str]:
        return {top_level_package(type(self))}

    def first_readable_indices(self: MinimalSplit, count: int) -> Tensor:
        return torch.arange(count) % len(self)

    def iterate_readable_inputs(
        self: MinimalSplit, batches: Iterable[Tensor]
    ) -> Iterator[tuple[list[int], Tensor]]:
        listed = list(batches)
        for indices, (inputs, _) in zip(listed, self.batches(listed), strict=True):
            yield indices.tolist(), inputs


@dataclass(frozen=True)
class InMemory(AlwaysReadable):
    """A split whose samples are held in memory.

    `inputs` have shape (n, channels, height, width), `targets` (n,) int64. `transform` is applied
    to each batch of inputs, for example to normalise inputs that are stored as bytes.
    """

    inputs: Tensor
    targets: Tensor
    transform: Callable[[Tensor], Tensor] | None = None

    @property
    def packages(self) -> set[str]:
        function: Any = self.transform
        while isinstance(function, partial):
            function = function.func
        return set() if function is None else {top_level_package(function)}

    def __len__(self) -> int:
        return len(self.targets)

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        for indices in batches:
            inputs = self.inputs[indices]
            yield (self.transform(inputs) if self.transform else inputs), self.targets[indices]


@dataclass(frozen=True)
class SplitAdapter(AlwaysReadable):
    """A user's class with no more than `MinimalSplit`, as a `Split`."""

    split: MinimalSplit

    @property
    def targets(self) -> Tensor:
        return self.split.targets

    @property
    def packages(self) -> set[str]:
        return {top_level_package(type(self.split))}

    def __len__(self) -> int:
        return len(self.split)

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        return self.split.batches(batches)


@dataclass(frozen=True)
class Data:
    """The data of a run, and the normalisation that new images need.

    `mean` and `std` have one value a channel, on the scale where black is 0 and white is 1.
    """

    train: Split
    val: Split
    classes: tuple[str, ...]
    """Class names; a target is an index into them."""
    channels: int
    size: tuple[int, int]
    """Height and width of an input, in pixels."""
    mean: tuple[float, ...]
    std: tuple[float, ...]
    digest: str = ""
    """A hash of inputs, targets, splits and all other fields. For a user's component it is computed
    from what the component returns, and from the value given here."""
    test: Split | None = None
    has_known_white: bool = True
    """Whether mean and std are on that scale; if not, new images can't be normalised alike."""

    @property
    def splits(self) -> dict[str, Split]:
        """The splits by name: train, val and, if there is one, test."""
        found = {"train": self.train, "val": self.val}
        return found if self.test is None else {**found, "test": self.test}


def top_level_package(function: Any) -> str:
    """The first part of the name of the module that defines a function or class."""
    return str(getattr(function, "__module__", None)).partition(".")[0]


def first_samples_batch(split: Split, count: int) -> Batch:
    """A batch of the samples with `split.first_readable_indices(count)`."""
    return next(iter(split.batches([split.first_readable_indices(count)])))


def readable_indices(split: Split, samples: Iterable[int]) -> list[int]:
    """The indices without those of the samples skipped so far."""
    unreadable = split.unreadable
    return [sample for sample in samples if sample not in unreadable]
