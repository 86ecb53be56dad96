"""Linear warm-up before any schedule.

The learning rate is the scheduler's, which is not delayed, times a factor that rises linearly.

Helps: Large learning rates, large batches, transformers, and a new head on pretrained layers.
Not with: scheduler=warmup_cosine and one_cycle, which have their own warm-up (refused).
Costs: Nothing that can be measured.

Source: Goyal et al. 2017, https://arxiv.org/abs/1706.02677, section 2.2 (gradual warm-up).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from recipe.components.contract import PlannedRun, check


def linear(
    progress: float,
    *,
    share: Annotated[float, Field(gt=0, lt=1)],
    start: Annotated[float, Field(gt=0, lt=1)],
) -> float:
    """Returns a factor that rises linearly from `start` at progress 0 to 1 at `share`, and stays
    1."""
    return min(1.0, start + (1 - start) * progress / share)


@check(linear)
def check_linear(planned: PlannedRun, *, share: float, **settings: Any) -> Iterator[str]:
    """It must be the only warm-up, and longer than a step."""
    if planned.warmup_setting():
        yield (
            f"{planned.choice('warmup')} doesn't go with {planned.choice('scheduler')}, which "
            "has its own warm-up; use warmup=none, or scheduler=cosine"
        )
    steps = len(planned.warmup_factors)
    if steps * share < 1:
        yield (
            f"warmup.share is {share:g} of {steps} steps, less than one step; use at least "
            f"{1 / steps:.2g}, or more epochs"
        )
