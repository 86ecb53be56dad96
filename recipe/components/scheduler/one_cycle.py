"""One cycle.

Helps: Short runs: the high learning rate in the middle speeds up training and regularises.
Not with: `freeze=gradual`, if layers are unfrozen after the peak (refused).
Costs: Nothing that can be measured.

Source: Smith & Topin 2018, https://arxiv.org/abs/1708.07120; torch.optim.lr_scheduler.OneCycleLR.
torch's `max_lr` is one number for all groups, which destroys the ratio between them; here, each
group peaks at its own learning rate. torch also cycles the momentum, instead of the optimizer's
setting; here, it isn't changed. torch's peak is one step before `pct_start` of the run; here, it is
exactly there, so that even the shortest run contains it.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any, Literal

from pydantic import Field, PositiveInt
from torch.optim import Optimizer
from torch.optim.lr_scheduler import OneCycleLR

from recipe.components.contract import PlannedRun, check, needs_total_steps, warmup_setting
from recipe.components.scheduler import check_warmup_share
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
    """Changes the learning rate of a group with rate r over `total` scheduler steps:

    r / div_factor before the first step, r after `pct_start * total` steps, and
    r / div_factor / final_div_factor after the last step.
    """
    return OneCycleLR(
        optimizer,
        max_lr=[group["lr"] for group in optimizer.param_groups],
        # torch counts points, one more than steps, and peaks at pct_start * total_steps - 1;
        # solved for a peak at pct_start * total
        total_steps=total + 1,
        pct_start=(pct_start * total + 1) / (total + 1),
        div_factor=div_factor,
        final_div_factor=final_div_factor,
        anneal_strategy=anneal_strategy,
        cycle_momentum=False,
    )


@check(one_cycle)
def check_one_cycle(planned: PlannedRun, *, pct_start: float, **settings: Any) -> Iterator[str]:
    """Layers must be unfrozen before the only peak of the learning rate."""
    yield from check_warmup_share(planned, "pct_start", pct_start)
    last = max(planned.freeze_schedule.unfreeze_schedule, default=0)
    peak = pct_start * planned.spec.epochs
    if last and last >= peak:
        yield (
            f"{planned.choice('scheduler')} doesn't go with {planned.choice('freeze')}, which "
            f"unfreezes after {pluralize(last, 'epoch')}: the learning rate has its only peak "
            f"after {peak:g}; unfreeze earlier, or use scheduler=constant, step or cosine"
        )
