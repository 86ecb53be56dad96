"""The nearer to the input, the slower a layer learns.

Helps: Fine-tuning of deep models, above all transformers (0.65 to 0.9).
Not with: Random weights, whose first layers would hardly learn.
Costs: Nothing that can be measured; one group of the optimizer for each layer.

Source: discriminative fine-tuning of Howard and Ruder 2018, https://arxiv.org/abs/1801.06146,
section 3.1 (there the ratio is 1 / 2.6); as layer-wise decay in Bao et al. 2021 (BEiT),
https://arxiv.org/abs/2106.08254.
"""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, PositiveFloat
from torch import nn

from recipe import layers


def layer_decay(
    model: nn.Module, *, lr: PositiveFloat, decay: Annotated[float, Field(gt=0, le=1)]
) -> list[dict[str, Any]]:
    """A group for each layer with weights; the last has `lr`, the k-th before it `lr * decay**k`.

    A normalisation belongs to the layer before it (`recipe.layers`).
    """
    parameters = dict(model.named_parameters())
    ordered = layers.in_order(model)
    width = len(str(len(ordered)))
    return [
        {
            "name": f"{index:0{width}}_{layer.name}",
            "params": [parameters[name] for name in layer.parameters if name in parameters],
            "lr": lr * decay ** (len(ordered) - 1 - index),
        }
        for index, layer in enumerate(ordered)
    ]
