"""Scheduler: how every parameter group's learning rate moves; the ratio between groups is kept.

What a part is called with is told by the name of its first parameter:

- `factor(progress, **settings) -> float`: a pure function of how much of the run is done,
  from 0 (the first step) towards 1, which the last epoch or step ends but doesn't begin with; each
  group's own learning rate is multiplied by it.
- `part(optimizer, **settings) -> torch.optim.lr_scheduler.LRScheduler`, which may also take
  `total`, the number of times it will be moved in this run.

Two settings are the engine's own: `per` (`epoch` or `step`) says when it moves, always after
the optimizer; `monitor` names the metric handed to a scheduler that wants one.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import islice
from typing import TYPE_CHECKING

from torch.optim.lr_scheduler import ReduceLROnPlateau

if TYPE_CHECKING:
    from recipe.rules import Planned

FLOORS = ("eta_min", "min_lr")
"""What torch's classes call a learning rate that no group falls below."""


def check(planned: Planned) -> Iterator[str]:
    """The rules of every schedule, torch's own classes and a user's included."""
    wrong = [*_absolute_top(planned), *_absolute_floor(planned), *_beyond_the_run(planned)]
    yield from wrong or _ratio(planned)
    if isinstance(planned.schedule.scheduler, ReduceLROnPlateau):
        yield from _plateau(planned)


def _absolute_top(planned: Planned) -> Iterator[str]:
    """OneCycleLR and CyclicLR put one number, or one a group, in place of the learning rates."""
    if "max_lr" in planned.settings("scheduler"):
        yield (
            "scheduler.max_lr takes the place of the learning rate of every parameter group, "
            "so those given are ignored and their ratio is lost; use scheduler=one_cycle, where "
            "each group's own learning rate is the top"
        )


def _absolute_floor(planned: Planned) -> Iterator[str]:
    settings, rates = planned.settings("scheduler"), planned.base_lr
    for key in FLOORS:
        floors = settings.get(key) or 0.0
        floors = floors if isinstance(floors, list) else [floors] * len(rates)
        above = [
            f"{name} ({lr:g})" for (name, lr), low in zip(rates.items(), floors, strict=False)
            if low > lr
        ]  # fmt: skip
        if above:
            yield (
                f"scheduler.{key} is {settings[key]}, above the learning rate of "
                f"{', '.join(above)}, which would rise to it; use a smaller one"
            )
        elif any(floors) and len({lr / low if low else 0.0 for lr, low in zip(
            rates.values(), floors, strict=False)}) > 1:  # fmt: skip
            yield (
                f"scheduler.{key} is one absolute minimum, but the groups' learning rates differ "
                f"({', '.join(f'{name} {lr:g}' for name, lr in rates.items())}), so their ratio "
                f"would be lost; use {key}=0, or scheduler=cosine with a minimum relative to each"
            )


def _beyond_the_run(planned: Planned) -> Iterator[str]:
    """torch's LinearLR and ConstantLR reach the full learning rate after `total_iters` moves."""
    count, settings = (
        planned.settings("scheduler").get("total_iters"),
        planned.settings("scheduler"),
    )
    if "start_factor" in settings and isinstance(count, int) and count >= planned.moves:
        yield (
            f"scheduler.total_iters is {count}, but the run has {planned.moves} moves (one every "
            f"{settings['per']}), so the warm-up wouldn't end; use fewer, or more epochs"
        )


def _ratio(planned: Planned) -> Iterator[str]:
    """Every schedule is walked over the whole run and looked at, whatever it is called."""
    base, rates = planned.base_lr, planned.rates
    first = next(iter(base))
    for name in islice(base, 1, None):
        for move, (lr, other) in enumerate(zip(rates[name], rates[first], strict=True)):
            wanted, found = base[name] * other, base[first] * lr
            if abs(wanted - found) > 1e-6 * max(abs(wanted), abs(found)):
                yield (
                    f"{planned.choice('scheduler')} destroys the ratio between the groups: {first} "
                    f"to {name} is {base[first]:g} to {base[name]:g}, but {other:g} to {lr:g} "
                    f"after {move} moves; multiply each group's own learning rate instead"
                )
                return


def _plateau(planned: Planned) -> Iterator[str]:
    schedule, settings = planned.schedule, planned.settings("scheduler")
    better = {"val/loss": "min", "val/accuracy": "max"}
    if schedule.monitor not in better:
        yield f"scheduler.monitor must be val/loss or val/accuracy, got {schedule.monitor!r}"
        return
    if settings["per"] != "epoch":
        yield (
            f"scheduler.per must be epoch to follow {schedule.monitor}, which is measured after "
            f"every epoch, got {settings['per']}"
        )
    if schedule.scheduler.mode != better[schedule.monitor]:
        yield (
            f"scheduler.mode must be {better[schedule.monitor]} for {schedule.monitor}, "
            f"got {schedule.scheduler.mode}"
        )


def never_reached(planned: Planned, key: str, part: float) -> Iterator[str]:
    """For a schedule that rises over `part` of the run: the run must have moves left after it."""
    if planned.moves - 1 < part * planned.moves:
        yield (
            f"scheduler.{key} is {part:g}, but the run has {planned.moves} moves (one every "
            f"{planned.settings('scheduler')['per']}), so it would end before the rise does; "
            f"use scheduler.per=step, a smaller {key}, or more epochs"
        )
