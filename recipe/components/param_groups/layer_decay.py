"""Layer-wise learning rate decay: the nearer to the input, the smaller the learning rate.

Helps: Fine-tuning of deep models, above all transformers (decay of 0.65 to 0.9).
Not with: Random weights, whose first layers would hardly be trained.
Costs: Nothing that can be measured; one parameter group for each block.

Source: Bao et al. 2021 (BEiT), https://arxiv.org/abs/2106.08254, with a decay per block, as in
timm.optim.param_groups_layer_decay; discriminative fine-tuning of Howard and Ruder 2018,
https://arxiv.org/abs/1801.06146, section 3.1 (with a ratio of 1 / 2.6).
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveFloat
from torch import nn

from recipe.nn import layers


def layer_decay(
    model: nn.Module, *, lr: PositiveFloat, decay: Annotated[float, Field(gt=0, le=1)]
) -> list[dict[str, Any]]:
    """Returns a group for each block; the classifier has the learning rate `lr`, the k-th block
    before it `lr * decay**k`.

    Blocks are those of the model's `group_matcher` (timm), else the stem and each residual block or
    transformer layer, or each layer of a model without blocks (see `recipe.nn.layers`).
    """
    parameters = dict(model.named_parameters())
    ordered = layers.find_blocks(model)
    width = len(str(len(ordered)))
    return [
        {
            "name": f"{index:0{width}}_{block.name}",
            "params": [parameters[name] for name in block.parameters],
            "lr": lr * decay ** (len(ordered) - 1 - index),
        }
        for index, block in enumerate(ordered)
    ]
