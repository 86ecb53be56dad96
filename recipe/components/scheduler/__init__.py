"""Scheduler: changes the learning rates of all parameter groups; the ratio between groups is kept.

A scheduler has one of three forms; the decorators are those of `recipe.components.contract`:

- `scheduler(optimizer, **settings) -> torch.optim.lr_scheduler.LRScheduler`, as torch's classes.
- `@needs_total_steps scheduler(optimizer, *, total, **settings)`: the same, with the number of
  scheduler steps in this run.
- `@lr_factor factor(progress, **settings) -> float`: a pure function of the progress of the run,
  from 0 (the first step) up to, but not including, 1; multiplies the learning rate of each group.

Two settings are read by the engine: `per` (`epoch` or `step`) is how often the scheduler steps,
always after the optimizer; `monitor` is the metric for a scheduler such as ReduceLROnPlateau.
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


def build_scheduler(
    component: Callable[..., Any], optimizer: Optimizer, total_steps: int
) -> LRScheduler:
    """Builds the scheduler of a component of any form; `total_steps` are scheduler steps.

    Raises ValueError for torch's schedulers of other schedulers, and if the result is no scheduler.
    """
    if getattr(component, "func", component) in (ChainedScheduler, SequentialLR):
        raise ValueError(
            "takes schedulers that were built with the optimizer, which settings can't describe; "
            "use scheduler=chained"
        )
    if lr_factor.marks(component):
        return LambdaLR(optimizer, lambda count: component(min(count / total_steps, 1.0)))
    arguments = {"total": total_steps} if needs_total_steps.marks(component) else {}
    scheduler: LRScheduler = component(optimizer, **arguments)
    if not isinstance(scheduler, LRScheduler):
        raise ValueError(
            f"returned {format_value(scheduler)}, which is not an LRScheduler of torch; return "
            "one, or mark a function of the progress with recipe.components.contract.lr_factor"
        )
    return scheduler


@check("scheduler")
def check_schedule(planned: PlannedRun) -> Iterator[str]:
    """Checks any schedule, also those of torch's classes and of a user."""
    wrong = [*_check_max_lr(planned), *_check_min_lr(planned), *_check_warmup_length(planned)]
    yield from wrong or _check_lr_ratio(planned)
    yield from _check_monitor(planned)


def _check_max_lr(planned: PlannedRun) -> Iterator[str]:
    """OneCycleLR and CyclicLR replace the learning rates of all groups by `max_lr`."""
    schedule, groups = planned.lr_schedule.scheduler, planned.optimizer.param_groups
    if isinstance(schedule, OneCycleLR):
        peaks = [group["max_lr"] for group in groups]
    elif isinstance(schedule, CyclicLR):
        peaks = schedule.max_lrs
    else:
        return
    if peaks != list(planned.base_lr.values()):
        yield (
            f"{_setting_name(planned, 'max_lr')} replaces the learning rate of every parameter "
            f"group, so those given ({_format_learning_rates(planned)}) would be ignored; use "
            "scheduler=one_cycle, which peaks at each group's learning rate"
        )


def _check_min_lr(planned: PlannedRun) -> Iterator[str]:
    """torch's minimum learning rates are absolute: one for all groups, or one per group."""
    rates, schedule = planned.base_lr, planned.lr_schedule.scheduler
    key, minima = "", [0.0] * len(rates)
    if isinstance(schedule, ReduceLROnPlateau):
        key, minima = "min_lr", list(schedule.min_lrs)
    elif isinstance(schedule, CosineAnnealingLR | CosineAnnealingWarmRestarts):
        key, minima = "eta_min", [schedule.eta_min] * len(rates)
    shown = f"{minima[0]:g}" if len(set(minima)) == 1 else str(minima)
    pairs = list(zip(rates.items(), minima, strict=True))
    if above := [f"{name} ({lr:g})" for (name, lr), minimum in pairs if minimum > lr]:
        yield (
            f"{_setting_name(planned, key)} is {shown}, above the learning rate of "
            f"{', '.join(above)}, which would rise to it; use a smaller one"
        )
    elif len({round(minimum / lr, 9) if lr else 0.0 for (_, lr), minimum in pairs}) > 1:
        yield (
            f"{_setting_name(planned, key)} is {shown}, an absolute minimum, but the groups' "
            f"learning rates differ ({_format_learning_rates(planned)}), so their ratio would be "
            f"lost; use {key}=0, or scheduler=cosine with a minimum relative to each"
        )


def _check_warmup_length(planned: PlannedRun) -> Iterator[str]:
    """LinearLR and ConstantLR reach the full learning rate after `total_iters` scheduler steps."""
    schedule = planned.lr_schedule.scheduler
    rises = (isinstance(schedule, LinearLR) and schedule.start_factor < schedule.end_factor) or (
        isinstance(schedule, ConstantLR) and schedule.factor < 1
    )
    if rises and schedule.total_iters >= planned.scheduler_steps:
        yield (
            f"{_setting_name(planned, 'total_iters')} is {schedule.total_iters}, but the run has "
            f"{format_scheduler_steps(planned, planned.scheduler_steps)}, so the warm-up wouldn't "
            "end; use fewer, or more epochs"
        )


def _check_lr_ratio(planned: PlannedRun) -> Iterator[str]:
    """Compares the groups at each point of the schedule, whatever its class is."""
    base, schedule = planned.base_lr, planned.lr_schedule.scheduler
    curves, unit = planned.lr_curves, "scheduler step"
    way_out = "multiply each group's own learning rate instead"
    if isinstance(schedule, ReduceLROnPlateau):
        curves = _plateau_lr_curves(schedule, base, planned.scheduler_steps)
        unit, way_out = "reduction", "use eps=0"
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


def _plateau_lr_curves(schedule: ReduceLROnPlateau, base: dict[str, float], steps: int) -> LRCurves:
    """Returns each group's learning rate after 0, 1, ... reductions, as many as fit into the run;
    torch skips a group whose rate would change by no more than `eps`."""
    curves = {name: [lr] for name, lr in base.items()}
    for curve, minimum in zip(curves.values(), schedule.min_lrs, strict=True):
        for _ in range((steps - 1) // (schedule.patience + 1)):
            reduced = max(curve[-1] * schedule.factor, minimum)
            curve.append(reduced if curve[-1] - reduced > schedule.eps else curve[-1])
    return curves


def _check_monitor(planned: PlannedRun) -> Iterator[str]:
    """A metric is needed by ReduceLROnPlateau, and ignored by any other scheduler."""
    schedule, per = planned.lr_schedule, planned.settings("scheduler")["per"]
    modes = {"val/loss": "min", "val/accuracy": "max"}
    if not isinstance(schedule.scheduler, ReduceLROnPlateau):
        if schedule.monitor is not None:
            yield (
                f"scheduler.monitor is {schedule.monitor}, but {planned.choice('scheduler')} "
                "depends on no metric, so it would be ignored; leave it out, or use "
                "scheduler=plateau"
            )
        return
    if schedule.monitor not in modes:
        yield (
            f"scheduler.monitor must be val/loss or val/accuracy, got "
            f"{format_value(schedule.monitor)}; give one of them"
        )
        return
    mode = modes[schedule.monitor]
    if per != "epoch":
        yield (
            f"scheduler.per must be epoch, as {schedule.monitor} is measured after every epoch, "
            f"got {per}; use scheduler.per=epoch"
        )
    if schedule.scheduler.mode != mode:
        yield (
            f"scheduler.mode must be {mode} for {schedule.monitor}, got "
            f"{schedule.scheduler.mode}; use scheduler.mode={mode}"
        )


def check_warmup_share(planned: PlannedRun, key: str, share: float) -> Iterator[str]:
    """For a schedule that rises in the first `share` of the run: it must have steps after that."""
    if planned.scheduler_steps - 1 < share * planned.scheduler_steps:
        yield (
            f"scheduler.{key} is {share:g}, but the run has "
            f"{format_scheduler_steps(planned, planned.scheduler_steps)}, so it would end during "
            f"the warm-up; use scheduler.per=step, a smaller {key}, or more epochs"
        )


def warn_below_one_epoch(planned: PlannedRun, key: str, length: int) -> Iterator[str]:
    """For a length in scheduler steps, which may be meant in epochs."""
    if planned.settings("scheduler")["per"] == "step" and length < planned.steps_per_epoch:
        yield (
            f"scheduler.{key} is {pluralize(length, 'training step')}, less than an epoch of "
            f"{planned.steps_per_epoch}; with scheduler.per=epoch it counts epochs"
        )


def format_scheduler_steps(planned: PlannedRun, steps: int) -> str:
    """Formats scheduler steps as what they are in this run: epochs or training steps."""
    per = planned.settings("scheduler")["per"]
    return pluralize(steps, "epoch" if per == "epoch" else "training step")


def _format_learning_rates(planned: PlannedRun) -> str:
    return ", ".join(f"{name} {lr:g}" for name, lr in planned.base_lr.items())


def _setting_name(planned: PlannedRun, key: str) -> str:
    """Returns the dotted key, or names the component if it sets the argument itself."""
    if key in planned.settings("scheduler"):
        return f"scheduler.{key}"
    return f"{planned.choice('scheduler')}: its {key}"
