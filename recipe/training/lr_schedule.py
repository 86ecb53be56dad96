"""The learning-rate schedule of a run, and its preview over all steps."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from recipe.components.contract import LRCurves, count_scheduler_steps, lr_factor, needs_total_steps
from recipe.components.scheduler import build_scheduler
from recipe.config.instantiate import Components
from recipe.config.spec import RunSpec


@dataclass
class LRSchedule:
    """A scheduler, when it steps, and the warm-up on top of it."""

    scheduler: LRScheduler
    per: str
    monitor: str | None
    has_run_length: bool = False
    """The schedule depends on the number of epochs."""
    warmup_factors: Sequence[float] = ()
    """The factor on the learning rates after 0, 1, ... optimizer steps; then 1."""
    optimizer_steps: int = 0

    def __post_init__(self) -> None:
        self.apply_warmup()

    @property
    def is_metric_driven(self) -> bool:
        return isinstance(self.scheduler, ReduceLROnPlateau)

    @property
    def warmup_factor(self) -> float:
        return (
            self.warmup_factors[self.optimizer_steps]
            if self.optimizer_steps < len(self.warmup_factors)
            else 1.0
        )

    def apply_warmup(self) -> None:
        """Multiplies the learning rates set by the scheduler by the warm-up factor."""
        if self.warmup_factor != 1:
            for group in self.scheduler.optimizer.param_groups:
                group["lr"] *= self.warmup_factor

    def remove_warmup(self) -> None:
        """Restores the learning rates set by the scheduler, from which it computes the next."""
        if self.warmup_factor != 1:
            groups = self.scheduler.optimizer.param_groups
            for group, rate in zip(groups, self.scheduler.get_last_lr(), strict=True):
                group["lr"] = float(rate)

    def after_step(self) -> None:
        self.remove_warmup()
        self.optimizer_steps += 1
        if self.per == "step":
            self.scheduler.step()
        self.apply_warmup()

    def after_epoch(self, metrics: Mapping[str, float]) -> None:
        self.remove_warmup()
        if isinstance(self.scheduler, ReduceLROnPlateau):
            assert self.monitor is not None
            self.scheduler.step(metrics[self.monitor])
        elif self.per == "epoch":
            self.scheduler.step()
        self.apply_warmup()


def compute_warmup_factors(
    spec: RunSpec, components: Components, steps_per_epoch: int
) -> list[float]:
    """The factor on every learning rate after 0, 1, ... training steps."""
    part, total = components["warmup"].bind(), spec.epochs * steps_per_epoch
    return [float(part(step / total)) for step in range(total)]


def build_lr_schedule(
    spec: RunSpec,
    components: Components,
    optimizer: torch.optim.Optimizer,
    steps_per_epoch: int,
    warmup_factors: Sequence[float] = (),
) -> LRSchedule:
    """The scheduler over this optimizer, for all steps of the run."""
    total = count_scheduler_steps(spec, steps_per_epoch)
    part = components["scheduler"].bind()
    spans = lr_factor.marks(part) or needs_total_steps.marks(part)
    scheduler = build_scheduler(part, optimizer, total)
    last = max((step for step, factor in enumerate(warmup_factors, 1) if factor != 1), default=0)
    return LRSchedule(
        scheduler,
        spec.scheduler["per"],
        spec.scheduler.get("monitor"),
        spans,
        warmup_factors[:last],
    )


def compute_lr_curves(
    spec: RunSpec, components: Components, base_lrs: Mapping[str, float], steps_per_epoch: int
) -> LRCurves:
    """The learning rate of each group over the run, computed on an optimizer of dummy parameters.

    Without the warm-up. A schedule that depends on a metric is constant here.
    """
    groups = [
        {"name": name, "params": [nn.Parameter(torch.zeros(1))], "lr": lr}
        for name, lr in base_lrs.items()
    ]
    optimizer = components["optimizer"].bind()(groups)
    schedule = build_lr_schedule(spec, components, optimizer, steps_per_epoch)
    curves: LRCurves = {name: [] for name in base_lrs}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # no step to take
        for _ in range(count_scheduler_steps(spec, steps_per_epoch)):
            for name, lr in get_learning_rates(optimizer).items():
                curves[name].append(lr)
            if not schedule.is_metric_driven:
                schedule.scheduler.step()
    return curves


def get_learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The current learning rate of every parameter group by name."""
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
