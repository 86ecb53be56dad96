"""Freeze a model from its input on.

Helps: Fine-tuning on data that look like those of the weights: edges and colours are the same.
Not with: Training from random weights, where the first layers have nothing to keep.
Costs: Less than nothing: what is frozen has no gradient and is computed once.
"""

from __future__ import annotations

from pydantic import PositiveInt
from torch import nn

from recipe.nn import layers


def first_layers(model: nn.Module, *, count: PositiveInt) -> None:
    """Freeze the first `count` layers with weights, each with the normalisation after it.

    Layers are counted in the order in which the model registers them (`recipe.nn.layers`).
    Raises ValueError if nothing would be left to train.
    """
    ordered = layers.find_layers(model)
    if count >= len(ordered):
        raise ValueError(
            f"freeze.count is {count}, but the model has {len(ordered)} layers with weights; "
            f"at most {len(ordered) - 1} can be frozen"
        )
    frozen = {name for layer in ordered[:count] for name in layer.parameters}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
