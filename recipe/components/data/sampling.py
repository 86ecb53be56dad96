"""Random subsets of labelled samples: by class, for training and validation."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor


def stratified_split(
    targets: Tensor, fraction: float, names: Sequence[str], generator: torch.Generator
) -> tuple[Tensor, Tensor]:
    """Returns ascending indices for training and for validation, which are disjoint.

    From each class, the share `fraction` of its samples (rounded half up) is drawn for validation.
    Raises ValueError if a class would be missing in one of the splits.
    """
    counts = targets.bincount(minlength=len(names))
    held = (counts * fraction + 0.5).long()
    lacking = ((held < 1) | (held >= counts)).nonzero().flatten().tolist()
    if lacking:
        count, val = int(counts[lacking[0]]), int(held[lacking[0]])
        more = f" (also for {len(lacking) - 1} more classes)" if len(lacking) > 1 else ""
        way_out = "use another fraction" if count > 1 else "add samples, or leave the class out"
        raise ValueError(
            f"data.val: {fraction} of the {count} samples of class {names[lacking[0]]} rounds to"
            f" {val}, which leaves none to {'train' if val else 'validate'} on{more}; {way_out}"
        )
    shuffled, rank = _shuffle_with_class_ranks(targets, generator)
    validates = rank < held[targets[shuffled]]
    return shuffled[~validates].sort().values, shuffled[validates].sort().values


def balanced_subset(targets: Tensor, size: int, generator: torch.Generator) -> Tensor:
    """Returns ascending indices of `size` random samples, with class counts that differ by at most
    1 if each class has enough samples.

    With generators in the same state, a smaller subset is contained in each larger one.
    """
    shuffled, rank = _shuffle_with_class_ranks(targets, generator)
    return shuffled[rank.argsort(stable=True)[:size]].sort().values


def _shuffle_with_class_ranks(targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns all indices in random order, and the rank of each within its class."""
    shuffled = torch.randperm(len(targets), generator=generator)
    by_class = targets[shuffled].argsort(stable=True)
    counts = targets.bincount()
    starts = (counts.cumsum(0) - counts).repeat_interleave(counts)
    rank = torch.empty_like(shuffled)
    rank[by_class] = torch.arange(len(targets)) - starts
    return shuffled, rank
