"""A larger learning rate for the classifier than for the other layers.

Helps: Fine-tuning, where a new head must change much, and pretrained layers only a little.
Not with: Models with random weights, where no layer is ahead of the others.
Costs: Nothing that can be measured.
"""

from __future__ import annotations

from typing import Any

from pydantic import PositiveFloat
from torch import nn

from recipe.nn import layers


def head_faster(
    model: nn.Module, *, lr: PositiveFloat, factor: PositiveFloat, head: str
) -> list[dict[str, Any]]:
    """Returns two groups: `head` with the learning rate `lr * factor`, `body` with `lr`.

    Raises SpecError if the pattern of the head matches no parameter, ValueError if it matches all.
    """
    names = layers.find_head_parameters(model, head, "param_groups.head")
    parameters = dict(model.named_parameters())
    body = [parameter for name, parameter in parameters.items() if name not in names]
    if not body:
        raise ValueError(
            f"param_groups.head: {head!r} matches all parameters; match the classifier only"
        )
    return [
        {"name": "body", "params": body, "lr": lr},
        {
            "name": "head",
            "rule": f"head={head}",
            "params": [parameters[name] for name in names],
            "lr": lr * factor,
        },
    ]
