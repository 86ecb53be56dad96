"""The layers of any model, in order from the input, each with the parameters that belong to it."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from itertools import accumulate
from posixpath import commonpath
from typing import Any

from torch import nn
from torch.nn.modules.batchnorm import _NormBase

from recipe.nn.optional_imports import import_optional
from recipe.nn.parameter_patterns import assign_patterns

NORM_TYPES = (_NormBase, nn.LayerNorm, nn.GroupNorm, nn.RMSNorm)
"""BatchNorm and InstanceNorm of every dimension, LayerNorm, GroupNorm, RMSNorm."""

BATCH_NORM_TYPES = (nn.modules.batchnorm._BatchNorm,)


@dataclass
class Layer:
    name: str
    """Name of the module with the weights."""
    parameters: list[str]
    """Full names of its own, of the normalisation after it, and of loose ones before it."""


def find_layers(model: nn.Module) -> list[Layer]:
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
        if isinstance(module, NORM_TYPES) and layers:
            layers[-1].parameters += own
        elif isinstance(module, NORM_TYPES) or has_child_parameters(module):
            loose += own
        else:
            layers.append(Layer(name, loose + own))
            loose = []
    if loose and layers:
        layers[-1].parameters += loose
    return layers


def has_child_parameters(module: nn.Module) -> bool:
    """Whether its submodules have parameters."""
    return any(True for child in module.children() for _ in child.parameters())


def find_blocks(model: nn.Module) -> list[Layer]:
    """The blocks of a model, in order from the input, each with all its parameters.

    They are those of the model's own `group_matcher`, as timm's models have one. Else the first is
    the stem, the last is the classifier (`head`), and between them are the modules of several
    layers that the model is made of, such as residual blocks or the layers of a transformer. A
    normalisation belongs to what is before it, a layer between two blocks to the one after it,
    and a layer after the last block is one of its own; so is every layer of a model without
    blocks. Raises ValueError if the model has a group_matcher and timm can't be imported.
    """
    if hasattr(model, "group_matcher") and len(stated := _find_group_matcher_blocks(model)) > 1:
        return stated
    counts = _count_layers(model)
    opened = _find_block_containers(model, counts)
    heads = find_head_parameters(model, "auto", "head")
    found: list[Layer] = []
    lone: list[Layer] = []
    loose: list[str] = []
    for name, parameters in _group_parameters(model, opened, set(heads)).items():
        if name in opened:
            loose += parameters
        elif isinstance(model.get_submodule(name), NORM_TYPES):
            ([*found, *lone][-1].parameters if found or lone else loose).extend(parameters)
        elif counts[name] > 1:
            before = [each for layer in lone for each in layer.parameters] + loose
            if lone and not found:
                found.append(Layer(lone[0].name, before))
                before = []
            found.append(Layer(name, before + parameters))
            lone, loose = [], []
        else:
            lone.append(Layer(name, loose + parameters))
            loose = []
    return [*found, *lone, Layer(heads[0].rpartition(".")[0], loose + heads)]


def _find_group_matcher_blocks(model: Any) -> list[Layer]:
    """timm's groups of parameters for layer-wise decay."""
    library = import_optional("timm.models", "a model with a group_matcher", "vision")
    grouped = library.group_parameters(model, model.group_matcher(coarse=False))
    found = [list(names) for _, names in sorted(grouped.items())]
    held = {name for names in found for name in names}
    found[-1] += [name for name, _ in model.named_parameters() if name not in held]
    return [Layer(_get_common_module(names), names) for names in found]


def _get_common_module(parameters: list[str]) -> str:
    """The innermost module that contains all parameters of the first one's top-level module."""
    top = parameters[0].partition(".")[0]
    alike = [name.rpartition(".")[0] for name in parameters if name.partition(".")[0] == top]
    return commonpath([name.replace(".", "/") for name in alike]).replace("/", ".") or top


CONTAINER_TYPES = (nn.Sequential, nn.ModuleList, nn.ModuleDict)


def _count_layers(model: nn.Module) -> Counter[str]:
    """The number of layers with weights in each module, by its name."""
    counts: Counter[str] = Counter()
    for layer in find_layers(model):
        counts.update(accumulate(layer.name.split("."), "{}.{}".format))
        counts[""] += 1
    return counts


def _find_block_containers(model: nn.Module, counts: Counter[str]) -> set[str]:
    """Names of the modules that contain blocks: the model, torch's container classes, modules that
    contain a list of blocks of one class, and a module that is the only one of its class and has
    most of the layers."""
    modules = dict(model.named_modules())
    classes = Counter(type(module) for module in modules.values())
    stacks = [name for name, module in modules.items() if _is_block_list(name, module, counts)]
    opened = {""}
    for name, module in modules.items():
        most = 2 * counts[name] > max(counts[""], 2) and classes[type(module)] == 1
        stacked = any(f"{stack}.".startswith(f"{name}.") for stack in stacks)
        if name.rpartition(".")[0] in opened and (
            type(module) in CONTAINER_TYPES or stacked or most
        ):
            opened.add(name)
    return opened


def _is_block_list(name: str, module: nn.Module, counts: Counter[str]) -> bool:
    """Whether it contains several modules of one class with several layers each."""
    kinds = [
        type(child)
        for key, child in module.named_children()
        if counts[f"{name}.{key}".lstrip(".")] > 1
    ]
    one_class = len(set(kinds)) == 1 and kinds[0] not in CONTAINER_TYPES
    return isinstance(module, CONTAINER_TYPES) and len(kinds) > 1 and one_class


def _group_parameters(
    model: nn.Module, opened: set[str], without: set[str]
) -> dict[str, list[str]]:
    """Parameters by the outermost module that isn't a container; those of a container itself by its
    name."""
    units: dict[str, list[str]] = {}
    for name, _ in model.named_parameters():
        path, *inner = name.rpartition(".")[0].split(".")
        while path in opened and inner:
            path = f"{path}.{inner.pop(0)}"
        if name not in without:
            units.setdefault(path, []).append(name)
    return units


def find_head_parameters(model: nn.Module, pattern: str, key: str) -> list[str]:
    """Names of the parameters of all classifiers of the model (`auto`), or those that a pattern
    matches.

    With `auto` they are what the model's `get_classifier()` returns, as timm's models do; else the
    last layer, and those beside it in the same module that have its type and shape: layers of the
    same shape, with other inputs than outputs, don't follow each other.
    Raises SpecError, naming `key`, if the pattern matches nothing.
    """
    names = [name for name, _ in model.named_parameters()]
    if pattern != "auto":
        return list(assign_patterns(key, [pattern], names))
    heads = tuple(
        f"{module}." for module in _find_classifier_modules(model) or _find_last_layers(model)
    )
    return [name for name in names if name.startswith(heads)]


def _find_classifier_modules(model: nn.Module) -> list[str]:
    """Names of the modules with parameters that `get_classifier()` returns, one or a tuple."""
    stated = getattr(model, "get_classifier", None)
    found = stated() if callable(stated) else ()
    held = {id(each) for each in (found if isinstance(found, tuple | list) else (found,))}
    return [
        name
        for name, module in model.named_modules()
        if id(module) in held and name and any(True for _ in module.parameters())
    ]


def _find_last_layers(model: nn.Module) -> list[str]:
    """Names of the last layer and of those beside it that can only be classifiers like it."""
    last = find_layers(model)[-1].name
    parent, shape = last.rpartition(".")[0], _get_weight_shape(model.get_submodule(last))
    holder = model.get_submodule(parent)
    if isinstance(holder, nn.Sequential) or len(shape) < 2 or shape[0] == shape[1]:
        return [last]
    return [
        f"{parent}.{name}".lstrip(".")
        for name, child in holder.named_children()
        if type(child) is type(model.get_submodule(last)) and _get_weight_shape(child) == shape
    ]


def _get_weight_shape(module: nn.Module) -> tuple[int, ...]:
    return tuple(getattr(getattr(module, "weight", None), "shape", ()))
