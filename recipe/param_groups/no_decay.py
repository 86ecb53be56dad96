"""Weight decay for weights alone.

Helps: Weight decay large enough to matter; biases and scales have no reason to be small.
Not with: Optimizer.weight_decay=0, of which nothing is left to except (it then has no effect).
Costs: Nothing that can be measured.

Source: He et al. 2019, https://arxiv.org/abs/1812.01187, section 3.1 (no bias decay).
"""

from __future__ import annotations

from typing import Any

from torch import nn

from recipe import layers


def no_decay(model: nn.Module) -> list[dict[str, Any]]:
    """Two groups: `decay`, and `no_decay` with weight_decay 0.

    Without decay are biases and all parameters of normalisation layers, told by the module's
    type, not by a name or by the number of dimensions.
    """
    decay: list[nn.Parameter] = []
    spared: list[nn.Parameter] = []
    for module in model.modules():
        for name, parameter in module.named_parameters(recurse=False):
            bias = name == "bias" or name.endswith("_bias")
            (spared if bias or isinstance(module, layers.NORMS) else decay).append(parameter)
    spared = list(dict.fromkeys(spared))
    groups: list[dict[str, Any]] = [{"name": "decay", "params": list(dict.fromkeys(decay))}]
    return (
        [*groups, {"name": "no_decay", "params": spared, "weight_decay": 0.0}] if spared else groups
    )
