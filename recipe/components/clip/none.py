"""No clipping; the total norm is measured to compare runs with and without clipping."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.utils import get_total_norm

from recipe.components.contract import supports_sharding


@supports_sharding
def none(params: list[nn.Parameter]) -> tuple[Tensor, Tensor]:
    """Returns the total L2 norm of all gradients, shape (), and False, shape (), bool."""
    norm = get_total_norm([p.grad for p in params if p.grad is not None])
    return norm, torch.zeros_like(norm, dtype=torch.bool)
