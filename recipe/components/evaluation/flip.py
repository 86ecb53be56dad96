"""Test-time flip: the logits of each image and of its mirror image are averaged.

Helps: Photographs, where left and right are arbitrary: often a few tenths of a percentage point.
Not with: Digits, text and other images that change their meaning when mirrored; the freeze cache of
the validation split.
Costs: A second forward pass in each evaluation and prediction.

Source: Krizhevsky et al. 2012, section 4.1 (with crops); https://github.com/KellerJordan/cifar10-airbench
(only flips, and means of logits).
"""

from __future__ import annotations

from torch import Tensor, nn


def flip(model: nn.Module, inputs: Tensor) -> Tensor:
    """Returns the mean of the logits of the images and their mirror images, (batch, classes)."""
    output: Tensor = model(inputs) + model(inputs.flip(-1))
    return output / 2
