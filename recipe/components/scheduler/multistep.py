"""Multi-step decay.

Helps: Recipes from papers that give their milestones.
Not with: Runs of a different length than the paper's, as milestones don't scale with the run.
Costs: Nothing that can be measured.

Source: torch.optim.lr_scheduler.MultiStepLR.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Annotated

from pydantic import Field, PositiveInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import MultiStepLR

from recipe.components.contract import PlannedRun, caution
from recipe.components.scheduler import warn_below_one_epoch
from recipe.errors import SettingError


def multistep(
    optimizer: Optimizer,
    *,
    milestones: list[PositiveInt],
    gamma: Annotated[float, Field(gt=0, lt=1)],
) -> MultiStepLR:
    """Multiplies every group's learning rate by `gamma` at the scheduler steps `milestones`.

    Raises ValueError unless there are milestones and they increase; torch accepts any order, and
    multiplies twice at a duplicate.
    """
    if not milestones:
        raise ValueError("scheduler.milestones must not be empty; use scheduler=constant")
    if any(later <= earlier for earlier, later in pairwise(milestones)):
        raise SettingError(
            "scheduler.milestones", "must increase", milestones, f"use {sorted(set(milestones))}",
        )  # fmt: skip
    return MultiStepLR(optimizer, milestones=milestones, gamma=gamma)


@caution(multistep)
def caution_multistep(planned: PlannedRun, *, milestones: list[int], gamma: float) -> Iterator[str]:
    yield from warn_below_one_epoch(planned, "milestones[0]", milestones[0])
