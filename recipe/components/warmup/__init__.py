"""Warm-up: called as `warmup(progress, **settings) -> float`, a factor of every learning rate.

A pure function of the progress of the run, from 0 (the first step) towards 1. After each optimizer
step, the learning rate of each group is set to the scheduler's value times the factor, which keeps
the ratio between groups.
"""

from __future__ import annotations

import math
from collections.abc import Iterator

from recipe.components.contract import PlannedRun, check


@check("warmup")
def check_warmup_factors(planned: PlannedRun) -> Iterator[str]:
    """Factors must be finite and not negative, and the last one must be 1."""
    factors, choice = planned.warmup_factors, planned.choice("warmup")
    wrong = [f for f in factors if not math.isfinite(f) or f < 0]
    if wrong:
        yield f"{choice} returns the factor {wrong[0]}; return a finite number of at least 0"
    elif factors and factors[-1] != 1:
        yield (
            f"{choice} doesn't end before the run: its factor is {factors[-1]:g} at the last of "
            f"{len(factors)} steps; use a smaller share of the run, or more epochs"
        )
