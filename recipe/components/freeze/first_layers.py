"""Freeze the first layers of a model.

Helps: Fine-tuning on images similar to those of the pretrained weights.
Not with: Random weights, whose first layers have learned nothing yet.
Costs: It saves time: frozen layers need no gradients, and are computed once.
"""

from __future__ import annotations

from pydantic import PositiveInt
from torch import nn

from recipe.errors import SettingError
from recipe.nn import layers


def first_layers(model: nn.Module, *, count: PositiveInt) -> None:
    """Freezes the first `count` layers with weights, each with the normalisation after it.

    Layers are counted in the order of registration in the model (`recipe.nn.layers`). Raises
    ValueError if nothing would be trained.
    """
    ordered = layers.find_layers(model)
    if count >= len(ordered):
        rule = f"must be below {len(ordered)}, the number of layers with weights"
        raise SettingError("freeze.count", rule, count, f"use at most {len(ordered) - 1}")
    frozen = {name for layer in ordered[:count] for name in layer.parameters}
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
