"""The split that an epoch reads, and the model that is called with its batches."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from recipe.components.data import Batch, Split, readable_indices
from recipe.training.frozen_cache import split_model as splitting
from recipe.training.frozen_cache.cache_file import CachedOutputs


@dataclass(frozen=True)
class ModelInputs:
    model: nn.Module
    """Called with batches of `split` on the device."""
    split: Split
    to_raw_inputs: Callable[[Tensor], Tensor]
    """Returns the original inputs for a batch of `split`."""


def uncached_inputs(model: nn.Module, data: Split) -> ModelInputs:
    return ModelInputs(model, data, lambda inputs: inputs)


def cached_inputs(
    split: splitting.ModelSplit,
    store: CachedOutputs,
    data: Split,
    place: Callable[[Tensor], Tensor],
) -> ModelInputs:
    def raw(numbers: Tensor) -> Tensor:
        inputs, _ = next(iter(data.batches([numbers.cpu()])))
        return place(inputs)

    return ModelInputs(CachedTail(split, store), IndexSplit(data), raw)


class CachedTail(nn.Module):
    """Computes the outputs of samples from their indices, shape (n,), int64, and cached rows.

    The full model is a submodule, so that train() and eval() apply to it.
    """

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
    """A split whose inputs are the indices of the samples; it skips what `data` skips."""

    data: Split

    @property
    def targets(self) -> Tensor:
        return self.data.targets

    @property
    def skips_unreadable(self) -> bool:
        return self.data.skips_unreadable

    @property
    def unreadable(self) -> dict[int, str]:
        return self.data.unreadable

    @property
    def file_names(self) -> Sequence[str]:
        return self.data.file_names

    @property
    def packages(self) -> set[str]:
        return self.data.packages

    def __len__(self) -> int:
        return len(self.data)

    def first_readable_indices(self, count: int) -> Tensor:
        return self.data.first_readable_indices(count)

    def iterate_readable_inputs(
        self, batches: Iterable[Tensor]
    ) -> Iterator[tuple[list[int], Tensor]]:
        for indices in batches:
            readable = readable_indices(self.data, indices.tolist())
            yield readable, torch.tensor(readable, dtype=torch.int64)

    def batches(self, batches: Iterable[Tensor]) -> Iterator[Batch]:
        targets = self.targets
        for indices in batches:
            if self.unreadable:
                readable = readable_indices(self.data, indices.tolist())
                if not readable:
                    next(iter(self.data.batches([indices])))  # raises DataError
                indices = torch.tensor(readable, dtype=torch.int64)
            yield indices, targets[indices]
