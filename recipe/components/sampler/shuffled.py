"""Each sample once per epoch."""

from __future__ import annotations

import torch
from torch import Tensor


def shuffled(targets: Tensor, generator: torch.Generator) -> Tensor:
    """Returns a random permutation, shape (n,)."""
    return torch.randperm(len(targets), generator=generator)
