"""Inputs on their way from the data to the model."""

from __future__ import annotations

import torch
from torch import Tensor


def to_device(inputs: Tensor, device: torch.device) -> Tensor:
    """A batch as the model is called with it, in training and everywhere else."""
    return inputs.to(device, non_blocking=True)
