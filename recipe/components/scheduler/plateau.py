"""Reduction on a plateau.

Helps: Long runs for which the right epochs of a decay aren't known.
Not with: Noisy metrics of few validation samples, which trigger it by chance; raise the patience.
Costs: Nothing that can be measured.

Source: torch.optim.lr_scheduler.ReduceLROnPlateau, without its `min_lr`, an absolute minimum for
all groups, and its `eps` (1e-8), the smallest reduction of a single group: both destroy the ratio
between groups.
"""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import ReduceLROnPlateau


def plateau(
    optimizer: Optimizer,
    *,
    mode: Literal["min", "max"],
    factor: Annotated[float, Field(gt=0, lt=1)],
    patience: NonNegativeInt,
    threshold: Annotated[float, Field(ge=0, allow_inf_nan=False)],
    threshold_mode: Literal["rel", "abs"],
    cooldown: NonNegativeInt,
) -> ReduceLROnPlateau:
    """Multiplies every group's learning rate by `factor` at the scheduler step with the
    (patience + 1)-th metric in a row that isn't better than the best by `threshold`."""
    return ReduceLROnPlateau(
        optimizer,
        mode=mode,
        factor=factor,
        patience=patience,
        threshold=threshold,
        threshold_mode=threshold_mode,
        cooldown=cooldown,
        min_lr=0.0,
        eps=0.0,
    )
