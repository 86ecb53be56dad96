"""A single forward pass for every image."""

from __future__ import annotations

from torch import Tensor, nn

from recipe.components.contract import preserves_inputs


@preserves_inputs
def plain(model: nn.Module, inputs: Tensor) -> Tensor:
    """Returns `model(inputs)`."""
    output: Tensor = model(inputs)
    return output
