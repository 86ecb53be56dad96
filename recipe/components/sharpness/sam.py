"""Sharpness-aware minimisation: step with the gradient at the worst point near the weights.

Perturbs the weights by `rho` along the gradient, computes the gradient there, and restores the
weights; the optimizer steps with the second gradient, which leads to flatter minima.

Helps: Training that overfits: small data, transformers, noisy labels.
Not with: Clip limits chosen without it, as the second gradient is clipped.
Costs: A second forward and backward pass, about twice the time of a step; a copy of the weights.

Source: Foret et al. 2021, https://arxiv.org/abs/2010.01412, equation 2 with p = 2 and algorithm 1.
Both passes use the same dropout masks; only the first one updates BatchNorm's statistics.
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
    """Replaces the gradients by those at weights + rho * gradient / |gradient|.

    |.| is the L2 norm of all gradients together, so the scale of the loss has no effect. If the
    gradient is 0, the weights aren't perturbed.
    """
    gradients = [p.grad for p in params if p.grad is not None]
    if not gradients:
        return
    norm = get_total_norm(gradients)
    weights = [p.detach() for p in params]
    originals = [weight.clone() for weight in weights]
    step = torch.where(norm > 0, rho / norm, 0.0)
    for weight, gradient in zip(weights, gradients, strict=True):
        weight.add_(gradient * step)
    try:
        recompute_gradients()
    finally:
        torch._foreach_copy_(weights, originals)
