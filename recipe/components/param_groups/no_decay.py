"""Weight decay for weights only, not for biases and normalisation.

Helps: Training with strong weight decay; biases and scales don't need to be small.
Not with: `optimizer.weight_decay=0`, with which it has no effect.
Costs: Nothing that can be measured.

Source: He et al. 2019, https://arxiv.org/abs/1812.01187, section 3.1 (no bias decay). As in timm
(https://huggingface.co/docs/timm) and BEiT (https://arxiv.org/abs/2106.08254), other parameters of
one dimension, class tokens, position embeddings, and the parameters of the model's
`no_weight_decay()` aren't decayed either.
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from recipe.nn import layers


def no_decay(model: nn.Module) -> list[dict[str, Any]]:
    """Returns two groups: `decay`, and `no_decay` with weight_decay 0.

    `no_decay` contains parameters of at most one dimension; all biases; all parameters of
    normalisation layers; the parameters, except weights, of modules that contain other layers
    (class tokens, position embeddings, bias tables, layer scales); and those that
    `no_weight_decay()` of the model or one of its modules lists.
    """
    undecayed = {id(parameter) for parameter in _find_undecayed(model)}
    groups: list[dict[str, Any]] = [
        {"name": "decay", "params": [p for p in model.parameters() if id(p) not in undecayed]}
    ]
    if without := [p for p in model.parameters() if id(p) in undecayed]:
        groups.append({"name": "no_decay", "params": without, "weight_decay": 0.0})
    return groups


def _find_undecayed(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        norm, around = isinstance(module, layers.NORM_TYPES), layers.has_child_parameters(module)
        for name, parameter in module.named_parameters(recurse=False):
            bias = name == "bias" or name.endswith("_bias")
            if parameter.ndim <= 1 or bias or norm or (around and not name.endswith("weight")):
                yield parameter
        list_patterns = getattr(module, "no_weight_decay", None)  # of timm's models
        patterns = list(list_patterns()) if callable(list_patterns) else []
        for name, parameter in module.named_parameters():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                yield parameter
