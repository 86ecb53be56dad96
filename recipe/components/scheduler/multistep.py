"""Multi-step decay.

Helps: Recipes from papers that name their milestones.
Not with: Runs of another length than the paper's: milestones don't scale along.
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


def multistep(
    optimizer: Optimizer,
    *,
    milestones: list[PositiveInt],
    gamma: Annotated[float, Field(gt=0, lt=1)],
) -> MultiStepLR:
    """Multiplies every group's learning rate by `gamma` at each of the moves `milestones`.

    Raises ValueError for no milestones and for some that don't grow; torch takes them in any
    order, and falls twice at one that stands there twice.
    """
    if not milestones:
        raise ValueError("scheduler.milestones must not be empty; use scheduler=constant")
    if any(later <= earlier for earlier, later in pairwise(milestones)):
        raise ValueError(
            f"scheduler.milestones must grow from one to the next, got {milestones}; "
            f"for the falls in their order use {sorted(set(milestones))}"
        )
    return MultiStepLR(optimizer, milestones=milestones, gamma=gamma)


@caution(multistep)
def caution_multistep(planned: PlannedRun, *, milestones: list[int], gamma: float) -> Iterator[str]:
    yield from warn_below_one_epoch(planned, "milestones[0]", milestones[0])
