"""The schedule of a run: the scheduler over its optimizer, when it moves, and where it will go."""

from __future__ import annotations

import inspect
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import nn
from torch.optim.lr_scheduler import LRScheduler, ReduceLROnPlateau

from recipe.components.contract import Rates, scheduler_moves
from recipe.components.scheduler import over
from recipe.config import instantiate
from recipe.config.spec import RunSpec


@dataclass
class Schedule:
    """A scheduler and when it moves."""

    scheduler: LRScheduler
    per: str
    monitor: str | None
    spans: bool = False
    """It is as long as the run: with more epochs it is another one."""
    ramp: Sequence[float] = ()
    """What the learning rates are multiplied by after 0, 1, ... steps of the optimizer; then 1."""
    steps: int = 0
    """Steps that the optimizer took."""

    def __post_init__(self) -> None:
        self.rise()

    @property
    def waits(self) -> bool:
        """Where it goes depends on a metric."""
        return isinstance(self.scheduler, ReduceLROnPlateau)

    @property
    def factor(self) -> float:
        """What the warm-up makes of the learning rates now."""
        return self.ramp[self.steps] if self.steps < len(self.ramp) else 1.0

    def rise(self) -> None:
        """Multiplies the learning rates, which are the scheduler's own, by the factor."""
        if self.factor != 1:
            for group in self.scheduler.optimizer.param_groups:
                group["lr"] *= self.factor

    def settle(self) -> None:
        """Puts the scheduler's own learning rates back, which it goes on from."""
        if self.factor != 1:
            groups = self.scheduler.optimizer.param_groups
            for group, rate in zip(groups, self.scheduler.get_last_lr(), strict=True):
                group["lr"] = float(rate)

    def after_step(self) -> None:
        self.settle()
        self.steps += 1
        if self.per == "step":
            self.scheduler.step()
        self.rise()

    def after_epoch(self, metrics: Mapping[str, float]) -> None:
        self.settle()
        if isinstance(self.scheduler, ReduceLROnPlateau):
            assert self.monitor is not None
            self.scheduler.step(metrics[self.monitor])
        elif self.per == "epoch":
            self.scheduler.step()
        self.rise()


def ramp(spec: RunSpec, steps_per_epoch: int) -> list[float]:
    """What the warm-up multiplies every learning rate by after 0, 1, ... steps of the run."""
    part, total = instantiate.part(spec, "warmup"), spec.epochs * steps_per_epoch
    return [float(part(step / total)) for step in range(total)]


def make(
    spec: RunSpec,
    optimizer: torch.optim.Optimizer,
    steps_per_epoch: int,
    factors: Sequence[float] = (),
) -> Schedule:
    """The scheduler over this optimizer, as long as the run; `factors` are those of the warm-up."""
    total = scheduler_moves(spec, steps_per_epoch)
    part = instantiate.part(spec, "scheduler")
    parameters = inspect.signature(part).parameters
    spans = next(iter(parameters)) == "progress" or "total" in parameters
    scheduler = over(part, optimizer, total)
    last = max((step for step, factor in enumerate(factors, 1) if factor != 1), default=0)
    return Schedule(
        scheduler, spec.scheduler["per"], spec.scheduler.get("monitor"), spans, factors[:last]
    )


def rates(spec: RunSpec, base: Mapping[str, float], steps_per_epoch: int) -> Rates:
    """Each group's learning rate over the run, found by walking the schedule on a stand-in.

    `base` is each group's own learning rate; the warm-up is left out. A schedule that waits for a
    metric stays where it starts.
    """
    groups = [
        {"name": name, "params": [nn.Parameter(torch.zeros(1))], "lr": lr}
        for name, lr in base.items()
    ]
    optimizer = instantiate.part(spec, "optimizer")(groups)
    schedule = make(spec, optimizer, steps_per_epoch)
    curves: Rates = {name: [] for name in base}
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Detected call of `lr_scheduler.step")  # no step to take
        for _ in range(scheduler_moves(spec, steps_per_epoch)):
            for name, lr in learning_rates(optimizer).items():
                curves[name].append(lr)
            if not schedule.waits:
                schedule.scheduler.step()
    return curves


def learning_rates(optimizer: torch.optim.Optimizer) -> dict[str, float]:
    """The learning rate of every group by name, as it is now."""
    return {group["name"]: float(group["lr"]) for group in optimizer.param_groups}
