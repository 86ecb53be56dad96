"""What an epoch reads, and what it calls with that."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recipe.components.data import Batch, Split, readable_indices, unreadable_samples
from recipe.training.frozen_cache import split_model as splitting
from recipe.training.frozen_cache.cache_file import CachedOutputs


@dataclass(frozen=True)
class ModelInputs:
    model: nn.Module
    """Called with a batch of `split`, on the device."""
    split: Split
    to_raw_inputs: Callable[[Tensor], Tensor]
    """From a batch that the model is called with to the inputs it stands for."""


def uncached_inputs(model: nn.Module, data: Split) -> ModelInputs:
    """Everything computed each time."""
    return ModelInputs(model, data, lambda inputs: inputs)


def cached_inputs(
    split: splitting.ModelSplit,
    store: CachedOutputs,
    data: Split,
    place: Callable[[Tensor], Tensor],
) -> ModelInputs:
    """The tail alone, reading what is kept."""

    def raw(numbers: Tensor) -> Tensor:
        inputs, _ = next(iter(data.batches([numbers.cpu()])))
        return place(inputs)

    return ModelInputs(CachedTail(split, store), IndexSplit(data), raw)


class CachedTail(nn.Module):
    """Called with the numbers of samples, shape (n,) int64. Its module is the model it is a part
    of, so that modes are changed and restored as they would be there."""

    def __init__(self, split: splitting.ModelSplit, store: CachedOutputs) -> None:
        super().__init__()
        self.model = split.wrapper.model
        self.split, self.store = split, store

    def forward(self, samples: Tensor) -> Tensor:
        rows = self.store.select(samples)
        kept = [
            layout.from_rows(each) for layout, each in zip(self.split.layouts, rows, strict=True)
        ]
        return self.split.run_tail(len(samples), *kept)


@dataclass(frozen=True)
class IndexSplit:
    """A split that gives the number of each sample in place of its inputs, and leaves out what
    `data` does."""

    data: Split

    @property
    def targets(self) -> Tensor:
        return self.data.targets

    @property
    def unreadable(self) -> dict[int, str]:
        return unreadable_samples(self.data)

    def __len__(self) -> int:
        return len(self.data)

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        targets = self.targets
        for indices in batches:
            if self.unreadable:
                left = torch.tensor(
                    readable_indices(self.data, indices.tolist()), dtype=torch.int64
                )
                if not len(left):
                    next(iter(self.data.batches([indices])))  # raises DataError
                indices = left
            yield indices, targets[indices]
