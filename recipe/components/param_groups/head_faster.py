"""A freshly initialised classifier learns faster than the layers below it.

Helps: Fine-tuning: a new head has far to go, while what is below it should move little.
Not with: Random weights throughout, of which no layer has a lead.
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
    """Two groups: `head` learns with `lr * factor`, `body` with `lr`.

    Raises SpecError if the pattern for the head matches nothing, ValueError if everything.
    """
    names = layers.find_head_parameters(model, head, "param_groups.head")
    parameters = dict(model.named_parameters())
    body = [parameter for name, parameter in parameters.items() if name not in names]
    if not body:
        raise ValueError(
            f"param_groups.head: {head!r} takes every parameter; name the classifier alone"
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
