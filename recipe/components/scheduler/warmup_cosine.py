"""Linear warm-up, then cosine decay.

Helps: Adaptive optimizers, transformers and large batches, whose first steps are the riskiest.
Not with: Runs of a few steps, of which the warm-up would take all (refused).
Costs: Nothing that can be measured.

Source: Goyal et al. 2017, https://arxiv.org/abs/1706.02677 (warm-up) and Loshchilov & Hutter
2017, https://arxiv.org/abs/1608.03983 (cosine).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import Field

from recipe.components.contract import PlannedRun, check, lr_factor, warmup_setting
from recipe.components.scheduler import check_rise_length


@lr_factor
@warmup_setting("warmup")
def warmup_cosine(
    progress: float,
    *,
    warmup: Annotated[float, Field(gt=0, lt=1)],
    start: Annotated[float, Field(gt=0, le=1)],
    minimum: Annotated[float, Field(ge=0, lt=1)],
) -> float:
    """The factor on every group's own learning rate.

    `start` at progress 0, in a line up to 1 at progress `warmup`, `minimum` at progress 1.
    """
    if progress < warmup:
        return start + (1 - start) * progress / warmup
    decay = (progress - warmup) / (1 - warmup)
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * decay)) / 2


@check(warmup_cosine)
def check_warmup_cosine(planned: PlannedRun, *, warmup: float, **settings: Any) -> Iterator[str]:
    """A run must be longer than its warm-up."""
    yield from check_rise_length(planned, "warmup", warmup)
