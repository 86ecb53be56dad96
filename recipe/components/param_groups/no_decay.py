"""Weight decay for weights alone.

Helps: Weight decay large enough to matter; biases and scales have no reason to be small.
Not with: Optimizer.weight_decay=0, of which nothing is left to except (it then has no effect).
Costs: Nothing that can be measured.

Source: He et al. 2019, https://arxiv.org/abs/1812.01187, section 3.1 (no bias decay); that one
number for each channel, class tokens and positions are left alone too, and what the model's
`no_weight_decay()` names, as in timm (https://huggingface.co/docs/timm) and BEiT
(https://arxiv.org/abs/2106.08254).
"""

from __future__ import annotations

from collections.abc import Iterator
from fnmatch import fnmatchcase
from typing import Any

from torch import nn

from recipe.nn import layers


def no_decay(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: `decay`, and `no_decay` with weight_decay 0.

    Without decay are parameters of at most one dimension, biases of any, all parameters of
    normalisation layers, known by the type of the module; what a module around other layers holds
    besides their weights (class tokens, position embeddings, bias tables, layer scales); and
    what `no_weight_decay()`, of the model or of a module in it, names or matches.
    """
    spared = {id(parameter) for parameter in _find_undecayed(model)}
    groups: list[dict[str, Any]] = [
        {"name": "decay", "params": [p for p in model.parameters() if id(p) not in spared]}
    ]
    if without := [p for p in model.parameters() if id(p) in spared]:
        groups.append({"name": "no_decay", "params": without, "weight_decay": 0.0})
    return groups


def _find_undecayed(model: nn.Module) -> Iterator[nn.Parameter]:
    for module in model.modules():
        norm, around = isinstance(module, layers.NORM_TYPES), layers.has_child_parameters(module)
        for name, parameter in module.named_parameters(recurse=False):
            bias = name == "bias" or name.endswith("_bias")
            beside = around and not name.endswith("weight")
            if parameter.ndim <= 1 or bias or norm or beside:
                yield parameter
        stated = getattr(module, "no_weight_decay", None)
        patterns = list(stated()) if callable(stated) else []
        for name, parameter in module.named_parameters():
            if any(fnmatchcase(name, pattern) for pattern in patterns):
                yield parameter
