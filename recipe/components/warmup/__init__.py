"""Warm-up: called as `warmup(progress, **settings) -> float`, a factor of every learning rate.

A pure function of the progress of the run, from 0 (the first step) towards 1. After each optimizer
step, the learning rate of each group is set to the scheduler's value times the factor, whichever
scheduler is used and however often it moves; so the ratio between groups is kept.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from recipe.components.contract import PlannedRun, check


@check("warmup")
def check_warmup_factors(planned: PlannedRun) -> Iterator[str]:
    """A factor must be a number from 0 on, and the scheduler's by the end."""
    factors, choice = planned.warmup_factors, planned.choice("warmup")
    wrong = [f for f in factors if not math.isfinite(f) or f < 0]
    if wrong:
        yield f"{choice} gives the factor {wrong[0]}; it must be a number from 0 on"
    elif factors and factors[-1] != 1:
        yield (
            f"{choice} isn't over when the run is: its factor is {factors[-1]:g} at the last of "
            f"{len(factors)} steps; use a smaller part of the run, or more epochs"
        )
