"""Step decay.

Helps: The classic schedule: one or two reductions when progress slows down.
Not with: Runs of at most step_size epochs, in which it has no effect.
Costs: Nothing that can be measured.

Source: torch.optim.lr_scheduler.StepLR.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated

from pydantic import Field, PositiveInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import StepLR

from recipe.components.contract import PlannedRun, caution
from recipe.components.scheduler import warn_below_one_epoch


def step(
    optimizer: Optimizer, *, step_size: PositiveInt, gamma: Annotated[float, Field(gt=0, lt=1)]
) -> StepLR:
    """Multiplies every group's learning rate by `gamma` at every `step_size`-th scheduler step."""
    return StepLR(optimizer, step_size=step_size, gamma=gamma)


@caution(step)
def caution_step(planned: PlannedRun, *, step_size: int, gamma: float) -> Iterator[str]:
    yield from warn_below_one_epoch(planned, "step_size", step_size)
