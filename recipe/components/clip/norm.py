"""Clipping by the total norm: the gradient keeps its direction, and its norm is limited.

Helps: Recurrent models, transformers and high learning rates, against single bad batches; look
at clip/grad_norm of a run with clip=none to choose the limit.
Not with: A limit far below the usual norm, which clips every step and only scales the learning
rate.
Costs: Two passes over the gradients in each step; clip=none makes one, too.

Source: Pascanu et al. 2013, https://arxiv.org/abs/1211.5063; torch.nn.utils.clip_grad_norm_.
torch multiplies by max_norm / (norm + 1e-6), which also slightly shrinks a gradient exactly at the
limit; here, gradients up to the limit are not changed at all.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.nn.utils import clip_grads_with_norm_, get_total_norm

from recipe.components.contract import PlannedRun, audit, check, supports_sharding


@supports_sharding
def norm(
    params: list[nn.Parameter],
    *,
    max_norm: Annotated[float, Field(ge=1e-6, allow_inf_nan=False)],  # torch adds 1e-6 to the norm
    norm_type: Annotated[float, Field(ge=1)],  # below 1 it is no norm
) -> tuple[Tensor, Tensor]:
    """Scales all gradients in place by one factor, to a total norm of at most `max_norm`.

    Returns the total norm before clipping, shape (), of type `norm_type`, and whether it was above
    `max_norm`, shape (), bool. If gradients aren't finite, neither is the norm.
    """
    total = get_total_norm([p.grad for p in params if p.grad is not None], norm_type)
    above = total > max_norm
    clip_grads_with_norm_(params, max_norm, torch.where(above, total, 0.0))
    return total, above


@check(norm)
def check_norm(planned: PlannedRun, *, norm_type: float, **settings: Any) -> Iterator[str]:
    """High powers of small gradients are 0 in float32."""
    if 4 < norm_type < math.inf:
        yield (
            f"clip.norm_type is {norm_type:g}: that power of a small gradient is 0 in float32, so "
            "the norm would be too small; use at most 4, or inf for the largest entry"
        )


@audit(norm)
def audit_norm(params: list[nn.Parameter], *, max_norm: float, norm_type: float) -> Iterator[str]:
    left = get_total_norm([p.grad for p in params if p.grad is not None], norm_type).item()
    if left > max_norm * (1 + 1e-4):
        yield f"the total norm is {left:g} after clipping to {max_norm:g}"
