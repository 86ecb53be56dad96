"""The layers of any model, in order from the input, each with the parameters that belong to it."""

from __future__ import annotations

from dataclasses import dataclass

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from recipe import patterns

NORMS = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""Normalisation: BatchNorm and InstanceNorm of every dimension, LayerNorm, GroupNorm, RMSNorm."""

BATCH_NORMS = (nn.modules.batchnorm._BatchNorm,)


@dataclass
class Layer:
    name: str
    """Of the module with the weights."""
    parameters: list[str]
    """Full names: its own, those of the normalisation after it, and loose ones before it."""


def in_order(model: nn.Module) -> list[Layer]:
    """Layers with weights, in the order in which the model registers them.

    A normalisation belongs to the layer before it; parameters that are held by a module around
    other layers (a class token, a position embedding) belong to the layer after them.
    """
    layers: list[Layer] = []
    loose: list[str] = []
    for name, module in model.named_modules():
        own = [f"{name}.{key}".lstrip(".") for key, _ in module.named_parameters(recurse=False)]
        if not own:
            continue
        if isinstance(module, NORMS) and layers:
            layers[-1].parameters += own
        elif isinstance(module, NORMS) or _around_others(module):
            loose += own
        else:
            layers.append(Layer(name, loose + own))
            loose = []
    if loose and layers:
        layers[-1].parameters += loose
    return layers


def _around_others(module: nn.Module) -> bool:
    return any(True for child in module.children() for _ in child.parameters())


def head(model: nn.Module, choice: str, key: str) -> list[str]:
    """Names of the classifier's parameters: of the last layer (`auto`) or those a pattern takes.

    Raises SpecError, headed by `key`, if the pattern matches nothing.
    """
    if choice == "auto":
        last = in_order(model)[-1].name
        return [name for name, _ in model.named_parameters() if name.startswith(f"{last}.")]
    return list(patterns.select(key, [choice], [name for name, _ in model.named_parameters()]))
