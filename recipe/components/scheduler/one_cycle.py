"""One cycle.

Helps: Short runs that are to get far: the high rate in the middle regularises.
Not with: Freeze=gradual, if stages thaw after the top (refused).
Costs: Nothing that can be measured.

Source: Smith & Topin 2018, https://arxiv.org/abs/1708.07120; torch.optim.lr_scheduler.OneCycleLR.
There `max_lr` is one number for all groups, which destroys the ratio between them; here the top
of each group is its own learning rate. There the momentum is cycled too, in place of the
optimizer's setting; here it is left alone. There the top comes one step before `pct_start`
of the run; here exactly there, so that it is inside even the shortest run.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from recipe.components.contract import PlannedRun, check, needs_total_steps, warmup_setting
from recipe.components.scheduler import check_rise_length
from recipe.formatting import pluralize


@needs_total_steps
@warmup_setting("pct_start")
def one_cycle(
    optimizer: Optimizer,
    *,
    total: PositiveInt,
    pct_start: Annotated[float, Field(gt=0, lt=1)],
    div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)],
    final_div_factor: Annotated[float, Field(ge=1, allow_inf_nan=False)],
    anneal_strategy: Literal["cos", "linear"],
) -> OneCycleLR:
    """Moves each group with learning rate r over `total` moves through three points:

    r / div_factor before the first move, r after `pct_start * total` moves, and
    r / div_factor / final_div_factor after the last.
    """
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        # torch counts the points (one more than the moves) and puts the top at
        # pct_start * total_steps - 1: solved for the top to be at pct_start * total.
        total_steps=total + 1,
        pct_start=(pct_start * total + 1) / (total + 1),
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        anneal_strategy=anneal_strategy,
        cycle_momentum=False,
    )


@check(one_cycle)
def check_one_cycle(planned: PlannedRun, *, pct_start: float, **settings: Any) -> Iterator[str]:
    """The top is passed once: what is unfrozen after it learns from the falling end alone."""
    yield from check_rise_length(planned, "pct_start", pct_start)
    last = max(planned.freeze_schedule.unfreeze_schedule, default=0)
    top = pct_start * planned.spec.epochs
    if last and last >= top:
        yield (
            f"{planned.choice('scheduler')} doesn't go with {planned.choice('freeze')}, which "
            f"unfreezes after {pluralize(last, 'epoch')}: the learning rate has its only top after "
            f"{top:g}; unfreeze earlier, or use scheduler=constant, step or cosine"
        )
