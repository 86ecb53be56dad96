"""Random subsets of labelled samples: by class, for training and validation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stratified_split(
    targets: Tensor, fraction: float, names: Sequence[str], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Indices to train and to validate on, each ascending; every index is in exactly one.

    From each class `fraction` of its samples, rounded to whole ones (half up), are drawn for
    validation. Raises ValueError where a class would be missing on one side.
    """
    counts = targets.bincount(minlength=len(names))
    held = (counts * fraction + 0.5).long()
    lacking = ((held < 1) | (held >= counts)).nonzero().flatten().tolist()
    if lacking:
        count, val = int(counts[lacking[0]]), int(held[lacking[0]])
        more = f" (and so on for {len(lacking) - 1} more classes)" if len(lacking) > 1 else ""
        way_out = "use another fraction" if count > 1 else "add samples, or leave the class out"
        raise ValueError(
            f"data.val: {fraction} of the {count} samples of class {names[lacking[0]]} rounds to"
            f" {val}, which leaves none to {'train' if val else 'validate'} on{more}; {way_out}"
        )
    shuffled, rank = _shuffle_with_class_ranks(targets, generator)
    validates = rank < held[targets[shuffled]]
    return shuffled[~validates].sort().values, shuffled[validates].sort().values


def balanced_subset(targets: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Ascending indices of `size` samples, drawn so that classes differ by one sample at most.

    Where a class has too few samples the others make up for it. From equal streams a smaller
    choice is part of every larger one.
    """
    shuffled, rank = _shuffle_with_class_ranks(targets, generator)
    return shuffled[rank.argsort(stable=True)[:size]].sort().values


def _shuffle_with_class_ranks(targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """All indices in random order, and how many of its own class stand before each of them."""
    shuffled = torch.randperm(len(targets), generator=generator)
    by_class = targets[shuffled].argsort(stable=True)
    counts = targets.bincount()
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.empty_like(shuffled)
    rank[by_class] = torch.arange(len(targets)) - starts
    return shuffled, rank
