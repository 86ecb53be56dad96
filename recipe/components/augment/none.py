"""No augmentation."""

from __future__ import annotations

import torch
from torch import Tensor


def none(inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns inputs and targets unchanged."""
    return inputs, targets
