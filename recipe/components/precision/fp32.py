"""Single precision."""

from __future__ import annotations

from contextlib import nullcontext

import torch
from torch.amp import GradScaler

from recipe.components.precision import AutocastAndScaler


def fp32(device: torch.device) -> AutocastAndScaler:
    """Returns a null context and a disabled scaler."""
    return nullcontext, GradScaler(device.type, enabled=False)
