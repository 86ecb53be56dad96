"""Exponential decay.

Helps: Runs whose length isn't known beforehand, as it doesn't depend on it.
Not with: Long runs with a small gamma, in which the rate dies out early.
Costs: Nothing that can be measured.

Source: torch.optim.lr_scheduler.ExponentialLR.
"""

from __future__ import annotations

from typing import Annotated

from pydantic import Field
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ExponentialLR


def exponential(
    optimizer: Optimizer, *, gamma: Annotated[float, Field(gt=0, lt=1)]
) -> ExponentialLR:
    """Multiplies every group's learning rate by `gamma` at every move."""
    return ExponentialLR(optimizer, gamma=gamma)
