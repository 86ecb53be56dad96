"""No augmentation."""

from __future__ import annotations

import torch
from torch import Tensor

from recipe.components.contract import preserves_inputs


@preserves_inputs
def none(inputs: Tensor, targets: Tensor, generator: torch.Generator) -> tuple[Tensor, Tensor]:
    """Returns inputs and targets unchanged."""
    return inputs, targets
