"""Freeze the convolutions; normalisation and classifier adapt to the new data.

Helps: Few images with other contrast and statistics than the data of the pretrained weights.
Not with: Models without normalisation layers, of which only the classifier would be trained.
Costs: It saves time: convolutions need no gradients of their weights.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd


def convolutions(model: nn.Module) -> None:
    """Freezes weight and bias of all convolutions of any dimension, found by the module's type.

    Raises ValueError if the model has no convolutions.
    """
    model.requires_grad_(True)
    found = [module for module in model.modules() if isinstance(module, _ConvNd)]
    if not found:
        raise ValueError("freeze=convolutions: the model has no convolutions; use another freeze")
    for module in found:
        module.requires_grad_(False)
