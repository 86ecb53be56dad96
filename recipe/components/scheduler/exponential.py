"""Exponential decay.

Helps: Runs whose length isn't known in advance, as the schedule doesn't depend on it.
Not with: Long runs with a small gamma, whose learning rate becomes negligible early.
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
    """Multiplies every group's learning rate by `gamma` at every scheduler step."""
    return ExponentialLR(optimizer, gamma=gamma)
