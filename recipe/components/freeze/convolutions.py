"""Keep what the convolutions have learnt; normalisation and classifier adapt to new data.

Helps: Few images that differ in contrast and statistics from those of the weights:
normalisation adapts, filters stay.
Not with: Models without normalisation layers, of which the classifier alone is left to train.
Costs: Less than nothing: convolutions need no gradient of their weights.
"""

from __future__ import annotations

from torch import nn
from torch.nn.modules.conv import _ConvNd


def convolutions(model: nn.Module) -> None:
    """Freeze weight and bias of every convolution, of any dimension, told by the module's type.

    Raises ValueError if the model has none.
    """
    model.requires_grad_(True)
    found = [module for module in model.modules() if isinstance(module, _ConvNd)]
    if not found:
        raise ValueError("freeze=convolutions: the model has no convolutions; use another freeze")
    for module in found:
        module.requires_grad_(False)
