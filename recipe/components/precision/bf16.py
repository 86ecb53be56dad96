"""Mixed precision in bfloat16.

bfloat16 has the exponent of float32, so gradients need no scaling.

Helps: GPUs and CPUs with native bfloat16: half the memory traffic, and faster computation.
Not with: Results that must agree in most digits, as it has 8 bits of precision.
Costs: Usually no accuracy beyond noise; time on hardware without native bfloat16.

Source: torch.autocast.
"""

from __future__ import annotations

from functools import partial

import torch
from torch.amp import GradScaler

from recipe.components.precision import AutocastAndScaler


def bf16(device: torch.device) -> AutocastAndScaler:
    """Returns autocast to bfloat16 and a disabled scaler.

    Raises ValueError for a CUDA GPU without native bfloat16, which would emulate it slowly.
    """
    if device.type == "cuda" and not torch.cuda.is_bf16_supported(including_emulation=False):
        raise ValueError(
            "precision=bf16 needs a GPU of compute capability 8.0 or later; use precision=fp16"
        )
    autocast = partial(torch.autocast, device.type, dtype=torch.bfloat16)
    return autocast, GradScaler(device.type, enabled=False)
