"""Sharpness-aware minimisation: step with the gradient at the worst point near the weights.

Goes `rho` uphill along the gradient, takes the gradient there, goes back, and lets the optimizer
step with that one, which leads to flatter minima.

Helps: Where training would overfit: small data, transformers, noisy labels.
Not with: Runs that can't afford it; clip sees the second gradient, so limits may have to change.
Costs: A second forward and backward pass, about twice the time of a step; a copy of the weights.

Source: Foret et al. 2021, https://arxiv.org/abs/2010.01412, equation 2 with p = 2 and algorithm 1.
Both passes use the same dropout masks; BatchNorm's statistics are moved by the first one alone.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import nn
from torch.nn.utils import get_total_norm


def sam(
    params: list[nn.Parameter],
    recompute_gradients: Callable[[], None],
    *,
    rho: Annotated[float, Field(gt=0, allow_inf_nan=False)],
) -> None:
    """Put the gradients at weights + rho * gradient / |gradient| in place of those at the weights.

    |.| is the L2 norm of all gradients together, so a loss that is scaled makes no difference.
    Where the gradient is 0 there is no way up, and it stays.
    """
    gradients = [p.grad for p in params if p.grad is not None]
    if not gradients:
        return
    norm = get_total_norm(gradients)
    weights = [p.detach() for p in params]
    before = [weight.clone() for weight in weights]
    step = torch.where(norm > 0, rho / norm, 0.0)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.add_(gradient * step)
    try:
        recompute_gradients()
    finally:
        torch._foreach_copy_(weights, before)
