"""Checks of the optimizer's parameter groups before a step: members, options, learning rates."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import torch
from torch import nn

from recipe.audit.expected_training import ExpectedTraining
from recipe.training.lr_schedule import LRSchedule, get_learning_rates

LR_TOLERANCE = 1e-6
"""Relative; for rounding."""


UNKNOWN_PARAMETER = "a parameter that is not part of the model"


class OptimizerGroupChecks:
    """Compares the optimizer with the expected training at any step."""

    def __init__(self, expected: ExpectedTraining, model: nn.Module, schedule: LRSchedule) -> None:
        self.expected = expected
        self.schedule = schedule
        self.names = {id(p): name for name, p in model.named_parameters()}
        self.model = model

    def check_members(self, optimizer: torch.optim.Optimizer, epoch: int) -> Iterator[str]:
        """Differences between the optimizer's parameters and those to be trained in an epoch."""
        held = [
            self.names.get(id(p), UNKNOWN_PARAMETER)
            for g in optimizer.param_groups
            for p in g["params"]
        ]
        wanted = set(self.expected.unfreeze_epochs) - self.expected.frozen_names(epoch)
        yield from (
            f"{name} is in the optimizer, but should be frozen" for name in set(held) - wanted
        )
        yield from (
            f"{name} should be trained, but is not in the optimizer" for name in wanted - set(held)
        )
        yield from (
            f"{name} is in the optimizer twice" for name in set(held) if held.count(name) > 1
        )

    def check_requires_grad(self, epoch: int) -> Iterator[str]:
        """Parameters with the wrong `requires_grad` for this epoch."""
        frozen = self.expected.frozen_names(epoch)
        for name, parameter in self.model.named_parameters():
            if parameter.requires_grad == (name in frozen):
                required = "frozen" if name in frozen else "trained"
                yield (
                    f"{name} has requires_grad={parameter.requires_grad} when the optimizer "
                    f"steps, but should be {required}"
                )

    def check_options(self, optimizer: torch.optim.Optimizer) -> Iterator[str]:
        """Parameters in the wrong group, and groups with wrong options or ratios."""
        for group in optimizer.param_groups:
            for parameter in group["params"]:
                name = self.names.get(id(parameter), UNKNOWN_PARAMETER)
                if self.expected.group_names.get(name) != group["name"]:
                    yield f"{name} is in the group {group['name']}"
            for key, value in self.expected.group_options.get(group["name"], {}).items():
                if key != "lr" and not _is_equal(group.get(key), value):
                    yield f"the group {group['name']} has {key}={group.get(key)}, not {value}"
        yield from self._check_lr_ratios(get_learning_rates(optimizer))

    def _check_lr_ratios(self, rates: dict[str, float]) -> Iterator[str]:
        base = self.expected.base_lr
        top = max(base, key=lambda name: base[name])
        for name, lr in rates.items():
            wanted, found = base.get(name, 0.0) * rates.get(top, 0.0), base[top] * lr
            if abs(wanted - found) > LR_TOLERANCE * max(abs(wanted), abs(found)):
                yield (
                    f"the ratio between the groups {top} and {name} is {rates.get(top, 0.0):g} to "
                    f"{lr:g}, not {base[top]:g} to {base.get(name, 0.0):g}"
                )

    def check_learning_rates(
        self, optimizer: torch.optim.Optimizer, scheduler_steps: int, optimizer_steps: int
    ) -> Iterator[str]:
        """Learning rates that differ from those after these numbers of steps."""
        if self.schedule.is_metric_driven:
            return
        factor = (
            self.expected.warmup_factors[optimizer_steps]
            if optimizer_steps < len(self.expected.warmup_factors)
            else 1.0
        )
        for name, lr in get_learning_rates(optimizer).items():
            planned = self.expected.lr_curves.get(name, [])
            if scheduler_steps >= len(planned):
                continue
            wanted = planned[scheduler_steps] * factor
            if abs(lr - wanted) > LR_TOLERANCE * abs(wanted):
                yield f"lr/{name} is {lr:g} after {scheduler_steps} scheduler steps, not {wanted:g}"


def _is_equal(found: Any, wanted: Any) -> bool:
    if isinstance(wanted, list | tuple):
        return found is not None and list(found) == list(wanted)
    return bool(found == wanted)
