"""Linear warm-up, then cosine decay.

Helps: Adaptive optimizers, transformers and large batches, whose first steps are unstable.
Not with: Runs of a few steps, which would end during the warm-up (refused).
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
from recipe.components.scheduler import check_warmup_share


@lr_factor
@warmup_setting("warmup")
def warmup_cosine(
    progress: float,
    *,
    warmup: Annotated[float, Field(gt=0, lt=1)],
    start: Annotated[float, Field(gt=0, le=1)],
    minimum: Annotated[float, Field(ge=0, lt=1)],
) -> float:
    """Returns the factor of each group's learning rate: `start` at progress 0, then linearly up to
    1 at `warmup`, then a half cosine to `minimum` at 1."""
    if progress < warmup:
        return start + (1 - start) * progress / warmup
    decay = (progress - warmup) / (1 - warmup)
    return minimum + (1 - minimum) * (1 + math.cos(math.pi * decay)) / 2


@check(warmup_cosine)
def check_warmup_cosine(planned: PlannedRun, *, warmup: float, **settings: Any) -> Iterator[str]:
    """A run must be longer than its warm-up."""
    yield from check_warmup_share(planned, "warmup", warmup)
