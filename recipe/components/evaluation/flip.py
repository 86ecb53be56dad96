"""Test-time flip: each image is classified as it is and mirrored, and the logits are averaged.

Helps: Photographs, where left and right are arbitrary: often a few tenths of a point.
Not with: Digits, text and whatever else means something else in a mirror; the freeze cache of the
validation part.
Costs: A second forward pass of every evaluation and prediction.

Source: Krizhevsky et al. 2012 (section 4.1, with crops as well); as flipping alone in
https://github.com/KellerJordan/cifar10-airbench, which averages logits, too.
"""

from __future__ import annotations

from torch import Tensor, nn


def flip(model: nn.Module, inputs: Tensor) -> Tensor:
    """Returns the mean of the logits of the images and their mirror images, (batch, classes)."""
    output: Tensor = model(inputs) + model(inputs.flip(-1))
    return output / 2
