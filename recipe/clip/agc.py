"""Adaptive gradient clipping: bound each gradient by the size of the weights it moves.

Source: Brock et al. 2021, https://arxiv.org/abs/2102.06171. As in the authors' code and in
timm's, a parameter of one dimension (a bias, a scale) counts as one unit with one norm.
The paper leaves the classifier head unclipped; here every parameter passed in is clipped.
The authors divide by max(|grad|, 1e-6); here by |grad|, so a tiny limit holds as well.
"""

from __future__ import annotations

from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.linalg import vector_norm
from torch.nn.utils import get_total_norm


@torch.no_grad()
def agc(
    params: list[nn.Parameter],
    *,
    ratio: Annotated[float, Field(gt=0, allow_inf_nan=False)],
    eps: Annotated[float, Field(gt=0, allow_inf_nan=False)],
) -> tuple[Tensor, Tensor]:
    """Scale gradients in place to |grad| <= ratio * max(|weight|, eps) per output unit.

    An output unit is a row of the first dimension (one filter, one neuron); |.| is the L2 norm.
    Returns the total L2 norm of all gradients before, shape (), and whether any unit was
    above its limit, shape (), bool.
    """
    total = get_total_norm([p.grad for p in params if p.grad is not None])
    any_above = torch.zeros_like(total, dtype=torch.bool)
    for p in params:
        if p.grad is None:
            continue
        within_unit = tuple(range(1, p.ndim)) or None
        limit = vector_norm(p, dim=within_unit, keepdim=True).clamp(min=eps) * ratio
        size = vector_norm(p.grad, dim=within_unit, keepdim=True)
        above = size > limit
        p.grad.mul_(torch.where(above, limit / size, 1.0))
        any_above |= above.any()
    return total, any_above
