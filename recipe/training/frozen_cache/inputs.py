"""What an epoch reads, and what it calls with that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recipe.components.data import Batch, Split, readable, unread
from recipe.training.frozen_cache import split_model as splitting
from recipe.training.frozen_cache.cache_file import Store


@dataclass(frozen=True)
class Feed:
    model: nn.Module
    """Called with a batch of `split`, on the device."""
    split: Split
    raw: Callable[[Tensor], Tensor]
    """From a batch that the model is called with to the inputs it stands for."""


def whole(model: nn.Module, data: Split) -> Feed:
    """Everything computed each time."""
    return Feed(model, data, lambda inputs: inputs)


def tail(
    split: splitting.Split, store: Store, data: Split, place: Callable[[Tensor], Tensor]
) -> Feed:
    """The tail alone, reading what is kept."""

    def raw(numbers: Tensor) -> Tensor:
        inputs, _ = next(iter(data.batches([numbers.cpu()])))
        return place(inputs)

    return Feed(Tail(split, store), Numbers(data), raw)


class Tail(nn.Module):
    """Called with the numbers of samples, shape (n,) int64. Its module is the model it is a part
    of, so that modes are changed and restored as they would be there."""

    def __init__(self, split: splitting.Split, store: Store) -> None:
        super().__init__()
        self.model = split.whole.model
        self.split, self.store = split, store

    def forward(self, samples: Tensor) -> Tensor:
        rows = self.store.of(samples)
        kept = [layout.value(each) for layout, each in zip(self.split.layouts, rows, strict=True)]
        return self.split.tail(len(samples), *kept)


@dataclass(frozen=True)
class Numbers:
    """A split that gives the number of each sample in place of its inputs, and leaves out what
    `data` does."""

    data: Split

    @property
    def targets(self) -> Tensor:
        return self.data.targets

    @property
    def unread(self) -> dict[int, str]:
        return unread(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        targets = self.targets
        for indices in batches:
            if self.unread:
                left = torch.tensor(readable(self.data, indices.tolist()), dtype=torch.int64)
                if not len(left):
                    next(iter(self.data.batches([indices])))  # raises DataError
                indices = left
            yield indices, targets[indices]
