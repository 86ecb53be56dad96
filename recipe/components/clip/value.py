"""Clipping by value: each entry of the gradients separately, which also changes the direction.

Helps: Gradients with a few very large entries.
Not with: Optimizers that scale each entry, such as adam, which undo most of the clipping.
Costs: Two passes over the gradients in each step.

Source: torch.nn.utils.clip_grad_value_.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated

from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import clip_grad_value_, get_total_norm

from recipe.components.contract import audit


def value(
    params: list[nn.Parameter], *, max_value: Annotated[float, Field(gt=0, allow_inf_nan=False)]
) -> tuple[Tensor, Tensor]:
    """Clips each entry of the gradients in place to the range -max_value ... max_value.

    Returns the total L2 norm before clipping, shape (), and whether any entry was outside, shape
    (), bool. Infinite entries are clipped as well; the norm before clipping is then infinite.
    """
    grads = [p.grad for p in params if p.grad is not None]
    norm = get_total_norm(grads)
    outside = get_total_norm(grads, math.inf) > max_value
    if grads:  # torch refuses an empty list
        clip_grad_value_(params, max_value)
    return norm, outside


@audit(value)
def audit_value(params: list[nn.Parameter], *, max_value: float) -> Iterator[str]:
    largest = get_total_norm([p.grad for p in params if p.grad is not None], math.inf).item()
    if largest > max_value * (1 + 1e-6):
        yield f"an entry is {largest:g} after clipping to {max_value:g}"
