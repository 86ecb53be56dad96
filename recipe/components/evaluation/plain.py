"""One look at every image."""

from __future__ import annotations

from torch import Tensor, nn


def plain(model: nn.Module, inputs: Tensor) -> Tensor:
    """Returns `model(inputs)`."""
    output: Tensor = model(inputs)
    return output
