"""Scheduler: changes the learning rates of all parameter groups; the ratio between groups is kept.

A scheduler has one of three forms; the decorators are those of `recipe.components.contract`:

- `scheduler(optimizer, **settings) -> torch.optim.lr_scheduler.LRScheduler`, as torch's classes.
- `@needs_total_steps scheduler(optimizer, *, total, **settings)`: the same, with the number of
  scheduler steps in this run.
- `@lr_factor factor(progress, **settings) -> float`: a pure function of the progress of the run,
  from 0 (the first step) up to, but not including, 1; multiplies the learning rate of each group.

Two settings are read by the engine: `per` (`epoch` or `step`) says when the scheduler steps, always
after the optimizer; `monitor` is the metric that a scheduler such as ReduceLROnPlateau gets.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from typing import Any

from torch.optim import Optimizer
from torch.optim.lr_scheduler import (
    ChainedScheduler,
    ConstantLR,
    CosineAnnealingLR,
    CosineAnnealingWarmRestarts,
    CyclicLR,
    LambdaLR,
    LinearLR,
    LRScheduler,
    OneCycleLR,
    ReduceLROnPlateau,
    SequentialLR,
)

from recipe.components.contract import LRCurves, PlannedRun, check, lr_factor, needs_total_steps
from recipe.formatting import format_value, pluralize

COMPOSITE_SCHEDULERS = (ChainedScheduler, SequentialLR)
"""Classes of torch that take other schedulers."""


def build_scheduler(
    part: Callable[..., Any], optimizer: Optimizer, total_steps: int
) -> LRScheduler:
    """The scheduler that a part, called in either way, makes over this optimizer for `total`
    moves."""
    if getattr(part, "func", part) in COMPOSITE_SCHEDULERS:
        raise ValueError(
            "combines schedulers that are made over the optimizer already, which no setting can "
            "name; use scheduler=chained"
        )
    if lr_factor.marks(part):
        return LambdaLR(optimizer, lambda count: part(min(count / total_steps, 1.0)))
    arguments = {"total": total_steps} if needs_total_steps.marks(part) else {}
    scheduler: LRScheduler = part(optimizer, **arguments)
    if not isinstance(scheduler, LRScheduler):
        raise ValueError(
            f"returned {format_value(scheduler)}, which is not an LRScheduler of torch; return "
            "one, or mark a function of the progress with recipe.components.contract.lr_factor"
        )
    return scheduler


@check("scheduler")
def check_schedule(planned: PlannedRun) -> Iterator[str]:
    """The rules of every schedule, torch's own classes and a user's included."""
    wrong = [*_check_max_lr(planned), *_check_min_lr(planned), *_check_warmup_length(planned)]
    yield from wrong or _check_lr_ratio(planned)
    yield from _check_monitor(planned)


def _check_max_lr(planned: PlannedRun) -> Iterator[str]:
    """OneCycleLR and CyclicLR put one number, or one a group, in place of the learning rates."""
    schedule, groups = planned.lr_schedule.scheduler, planned.optimizer.param_groups
    if isinstance(schedule, OneCycleLR):
        tops = [group["max_lr"] for group in groups]
    elif isinstance(schedule, CyclicLR):
        tops = schedule.max_lrs
    else:
        return
    if tops != list(planned.base_lr.values()):
        yield (
            f"{_setting_name(planned, 'max_lr')} takes the place of the learning rate of every "
            f"parameter group, so those given ({_format_learning_rates(planned)}) would be "
            f"ignored; use "
            "scheduler=one_cycle, where each group's own learning rate is the top"
        )


def _check_min_lr(planned: PlannedRun) -> Iterator[str]:
    """torch's minima, below which no group falls, are absolute: one number, or one a group."""
    rates = planned.base_lr
    key, floors = _get_min_lrs(planned.lr_schedule.scheduler, len(rates))
    shown = f"{floors[0]:g}" if len(set(floors)) == 1 else str(floors)
    above = [
        f"{name} ({lr:g})" for (name, lr), low in zip(rates.items(), floors, strict=True)
        if low > lr
    ]  # fmt: skip
    if above:
        yield (
            f"{_setting_name(planned, key)} is {shown}, above the learning rate of "
            f"{', '.join(above)}, which would rise to it; use a smaller one"
        )
    elif len({round(low / lr, 9) if lr else 0.0 for lr, low in zip(
        rates.values(), floors, strict=True)}) > 1:  # fmt: skip
        yield (
            f"{_setting_name(planned, key)} is {shown}, an absolute minimum, but the groups' "
            f"learning "
            f"rates differ ({_format_learning_rates(planned)}), so their ratio would be "
            f"lost; use {key}=0, or "
            "scheduler=cosine with a minimum relative to each"
        )


def _get_min_lrs(schedule: LRScheduler, groups: int) -> tuple[str, list[float]]:
    """What torch calls its minimum, and its value for every group."""
    if isinstance(schedule, ReduceLROnPlateau):
        return "min_lr", list(schedule.min_lrs)
    if isinstance(schedule, CosineAnnealingLR | CosineAnnealingWarmRestarts):
        return "eta_min", [schedule.eta_min] * groups
    return "", [0.0] * groups


def _check_warmup_length(planned: PlannedRun) -> Iterator[str]:
    """torch's LinearLR and ConstantLR reach the full learning rate after `total_iters` moves."""
    schedule = planned.lr_schedule.scheduler
    rises = (isinstance(schedule, LinearLR) and schedule.start_factor < schedule.end_factor) or (
        isinstance(schedule, ConstantLR) and schedule.factor < 1
    )
    if rises and schedule.total_iters >= planned.scheduler_steps:
        yield (
            f"{_setting_name(planned, 'total_iters')} is {schedule.total_iters}, but the run has "
            f"{_format_scheduler_steps(planned)}, so the warm-up wouldn't end; "
            f"use fewer, or more epochs"
        )


def _check_lr_ratio(planned: PlannedRun) -> Iterator[str]:
    """Every schedule is walked over the whole run and looked at, whatever it is called."""
    base, schedule = planned.base_lr, planned.lr_schedule.scheduler
    curves, unit, way_out = (
        planned.lr_curves,
        "move",
        "multiply each group's own learning rate instead",
    )
    if isinstance(schedule, ReduceLROnPlateau):
        curves, unit, way_out = (
            _plateau_lr_curves(schedule, base, planned.scheduler_steps),
            "fall",
            "use eps=0",
        )
    first = next(iter(base))
    for name in islice(base, 1, None):
        for count, (lr, other) in enumerate(zip(curves[name], curves[first], strict=True)):
            wanted, found = base[name] * other, base[first] * lr
            if abs(wanted - found) > 1e-6 * max(abs(wanted), abs(found)):
                yield (
                    f"{planned.choice('scheduler')} destroys the ratio between the groups: {first} "
                    f"to {name} is {base[first]:g} to {base[name]:g}, but {other:g} to {lr:g} "
                    f"after {pluralize(count, unit)}; {way_out}"
                )
                return


def _plateau_lr_curves(schedule: ReduceLROnPlateau, base: dict[str, float], moves: int) -> LRCurves:
    """Each group's learning rate after 0, 1, ... falls, as many as a run could have; torch leaves
    a group out of a fall that is no larger than `eps`."""
    curves = {name: [lr] for name, lr in base.items()}
    for curve, low in zip(curves.values(), schedule.min_lrs, strict=True):
        for _ in range((moves - 1) // (schedule.patience + 1)):
            lower = max(curve[-1] * schedule.factor, low)
            curve.append(lower if curve[-1] - lower > schedule.eps else curve[-1])
    return curves


def _check_monitor(planned: PlannedRun) -> Iterator[str]:
    """What a schedule that waits for a metric is handed, and no other needs."""
    schedule, settings = planned.lr_schedule, planned.settings("scheduler")
    better = {"val/loss": "min", "val/accuracy": "max"}
    if not isinstance(schedule.scheduler, ReduceLROnPlateau):
        if schedule.monitor is not None:
            yield (
                f"scheduler.monitor is {schedule.monitor}, but {planned.choice('scheduler')} "
                "follows no metric, so it would be ignored; leave it out, or use scheduler=plateau"
            )
        return
    if schedule.monitor not in better:
        yield (
            "scheduler.monitor must be val/loss or val/accuracy, got "
            f"{format_value(schedule.monitor)}"
        )
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


def check_rise_length(planned: PlannedRun, key: str, part: float) -> Iterator[str]:
    """For a schedule that rises over `part` of the run: the run must have moves left after it."""
    if planned.scheduler_steps - 1 < part * planned.scheduler_steps:
        yield (
            f"scheduler.{key} is {part:g}, but the run has {_format_scheduler_steps(planned)}, so "
            f"it would end before the rise does; use scheduler.per=step, a smaller {key}, or more "
            "epochs"
        )


def warn_below_one_epoch(planned: PlannedRun, key: str, length: int) -> Iterator[str]:
    """For a length that is counted in moves: with one at every step it may be meant in epochs."""
    if planned.settings("scheduler")["per"] == "step" and length < planned.steps_per_epoch:
        yield (
            f"scheduler.{key} is {pluralize(length, 'training step')}, less than an epoch of "
            f"{planned.steps_per_epoch}; with scheduler.per=epoch it counts epochs"
        )


def _format_scheduler_steps(planned: PlannedRun) -> str:
    per = planned.settings("scheduler")["per"]
    return f"{pluralize(planned.scheduler_steps, 'move')} (one every {per})"


def _format_learning_rates(planned: PlannedRun) -> str:
    return ", ".join(f"{name} {lr:g}" for name, lr in planned.base_lr.items())


def _setting_name(planned: PlannedRun, key: str) -> str:
    """The dotted key; where a user's part sets it itself, their choice."""
    if key in planned.settings("scheduler"):
        return f"scheduler.{key}"
    return f"{planned.choice('scheduler')}: its {key}"
