"""Mixed precision in float16 with loss scaling.

Helps: GPUs without bfloat16, such as the V100 and T4.
Not with: CPUs (refused).
Costs: A few skipped steps while the scale adapts.

Source: Micikevicius et al. 2018, https://arxiv.org/abs/1710.03740; torch.autocast, GradScaler.
"""

from __future__ import annotations

from functools import partial
from typing import Annotated

import torch
from pydantic import Field, PositiveInt
from torch.amp import GradScaler

from recipe.components.precision import AutocastAndScaler


def fp16(
    device: torch.device,
    *,
    init_scale: Annotated[float, Field(gt=0, allow_inf_nan=False)],
    growth_factor: Annotated[float, Field(gt=1, allow_inf_nan=False)],
    backoff_factor: Annotated[float, Field(gt=0, lt=1)],
    growth_interval: PositiveInt,
) -> AutocastAndScaler:
    """Returns autocast to float16 and an enabled scaler, which skips steps whose gradients
    overflow. Raises ValueError for a CPU."""
    if device.type == "cpu":
        raise ValueError(
            "precision=fp16 needs a GPU, and this run is on the CPU; use precision=bf16"
        )
    scaler = GradScaler(
        device.type,
        init_scale=init_scale,
        growth_factor=growth_factor,
        backoff_factor=backoff_factor,
        growth_interval=growth_interval,
    )
    return partial(torch.autocast, device.type, dtype=torch.float16), scaler
