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
        elif isinstance(module, NORMS) or around_others(module):
            loose += own
        else:
            layers.append(Layer(name, loose + own))
            loose = []
    if loose and layers:
        layers[-1].parameters += loose
    return layers


def around_others(module: nn.Module) -> bool:
    """Whether modules in it have parameters."""
    return any(True for child in module.children() for _ in child.parameters())


def head(model: nn.Module, choice: str, key: str) -> list[str]:
    """Names of the classifiers' parameters: of all that the model has (`auto`), or those that a
    pattern takes.

    With `auto` they are what the model's `get_classifier()` returns, as timm's models do; else the
    last layer, and those beside it in the same module that have its type and shape: layers of the
    same shape, with other inputs than outputs, don't follow each other.
    Raises SpecError, headed by `key`, if the pattern matches nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    if choice != "auto":
        return list(patterns.select(key, [choice], names))
    heads = tuple(f"{module}." for module in _stated_heads(model) or _last_layers(model))
    return [name for name in names if name.startswith(heads)]


def _stated_heads(model: nn.Module) -> list[str]:
    """Names of the modules with parameters that `get_classifier()` returns, one or a tuple."""
    stated = getattr(model, "get_classifier", None)
    found = stated() if callable(stated) else ()
    held = {id(each) for each in (found if isinstance(found, tuple | list) else (found,))}
    return [
        name
        for name, module in model.named_modules()
        if id(module) in held and name and any(True for _ in module.parameters())
    ]


def _last_layers(model: nn.Module) -> list[str]:
    """Names of the last layer and of those beside it that can only be classifiers like it."""
    last = in_order(model)[-1].name
    parent, shape = last.rpartition(".")[0], _weight_shape(model.get_submodule(last))
    holder = model.get_submodule(parent)
    if isinstance(holder, nn.Sequential) or len(shape) < 2 or shape[0] == shape[1]:
        return [last]
    return [
        f"{parent}.{name}".lstrip(".")
        for name, child in holder.named_children()
        if type(child) is type(model.get_submodule(last)) and _weight_shape(child) == shape
    ]


def _weight_shape(module: nn.Module) -> tuple[int, ...]:
    return tuple(getattr(getattr(module, "weight", None), "shape", ()))
