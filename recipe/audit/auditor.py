"""The audit of a run: whether each trick has the effect that it states.

Checked after the first steps, at the epochs at which layers are unfrozen, and at the end; the first
two steps, the middle one and the last one are inspected closely. A failed check ends the run.
`expected` computes the expected values from the components, independently of what the engine built.
The audit changes neither weights nor random streams.
"""

from __future__ import annotations

import functools
import math
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

from torch import nn

from recipe.audit.expected_training import ExpectedTraining
from recipe.audit.optimizer_groups import LR_TOLERANCE, OptimizerGroupChecks
from recipe.audit.run_checks import RunChecks
from recipe.audit.step_checks import StepMonitor
from recipe.audit.weight_checks import FrozenWeightChecks, WeightChanges, has_same_weights
from recipe.components import contract
from recipe.config.groups import OFF_OPTIONS
from recipe.config.spec import RunSpec
from recipe.errors import RecipeError
from recipe.formatting import format_percent, pluralize
from recipe.training.loop import MetricsEvent
from recipe.training.run import Run

FIRST_CHECK_STEP = 2
"""Not 1: with momentum and warm-up some weights only change in the second step."""


STATE_ATTRIBUTES = ("epoch", "hit_rate", "rates_moved", "looked")


@dataclass(frozen=True)
class AuditResult:
    """The result of the checks of one trick."""

    group: str
    option: str
    description: str
    problems: tuple[str, ...] = ()
    no_effect_reason: str | None = None
    warning: str | None = None

    @property
    def listed_problems(self) -> list[str]:
        """The first three problems, and the number of others."""
        more = len(self.problems) - 3
        return [*self.problems[:3], *([f"and {more} more"] if more > 0 else [])]

    @property
    def has_passed(self) -> bool:
        return not self.problems


class AuditError(RecipeError):
    """A trick did not have the effect that it states, so the metrics are not those of the spec."""

    def __init__(self, results: list[AuditResult]) -> None:
        self.results = results
        super().__init__(
            f"audit: {result.group}={result.option} failed its audit: {problem}"
            for result in results
            for problem in result.listed_problems
        )


class Audit:
    """Audits a run that has not started; within the `with`, call `check` with every event."""

    def __init__(self, spec: RunSpec, run: Run, expected: ExpectedTraining | None = None) -> None:
        """`expected` must be given if the model is sharded since, as it cannot be copied then."""
        self.spec, self.run = spec, run
        self.expected = expected or ExpectedTraining.from_spec(
            spec, run.components, run.model, run.steps_per_epoch
        )
        self.frozen_weights = FrozenWeightChecks(self.expected, run.model)
        self.weight_changes = WeightChanges(run.model)
        self.optimizer_groups = OptimizerGroupChecks(self.expected, run.model, run.lr_schedule)
        self.epoch = 0
        self.hit_rate = 0.0
        self.rates_moved = False
        self.looked = False
        self.run_checks = RunChecks(spec, run)
        self._loss_no_effect = _no_effect_reason(run)

    def __enter__(self) -> Audit:
        first = self.run.position.step
        closely = {first + 1, first + 2, (self.run.total_steps + 1) // 2, self.run.total_steps}
        self.step_monitor = StepMonitor(
            self.run,
            closely,
            takes=self.spec.loss.get("takes", ["indices"]),
            gives=self.spec.augment.get("gives", "indices"),
            check_clip=_clip_check(self.run),
            on_before_step=self._before_step,
        )
        self.epoch = self.run.position.epoch
        self.step_monitor.batches = first  # of a run that continues another one
        self.step_monitor.steps = first - self.run.nonfinite_guard.skipped_batches
        self.step_monitor.clipped_steps.fill_(float(self.run.position.clipped_steps))
        return self

    def __exit__(self, *raised: object) -> None:
        self.step_monitor.close()

    def state_dict(self) -> dict[str, Any]:
        """The findings so far, as plain data."""
        return {
            **{name: getattr(self, name) for name in STATE_ATTRIBUTES},
            "digests": self.frozen_weights.digests,
            "watch": self.step_monitor.state_dict(),
        }

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Restores the findings; call it within the `with`."""
        for name in STATE_ATTRIBUTES:
            setattr(self, name, state[name])
        self.frozen_weights.digests = state["digests"]
        self.step_monitor.load_state_dict(state["watch"])

    def check(self, point: MetricsEvent) -> list[AuditResult]:
        """The results so far at the events that are checked; else an empty list."""
        if not point.is_epoch_end:
            self._track_learning_rates(point)
        else:
            self.epoch = point.epoch
            self.hit_rate = point.metrics["clip/hit_rate"]
        last = point.is_run_end
        early = not self.looked and point.step >= min(FIRST_CHECK_STEP, self.run.total_steps)
        thaws = point.is_epoch_end and point.epoch in self.expected.unfreeze_epochs.values()
        if not (last or early or thaws):
            return []
        self.looked = True
        for problem in self.frozen_weights.find_changed(self.run.model, point.epoch - 1):
            self.step_monitor.add_problem("freeze", problem)
        if last:
            self._check_end()
        self.step_monitor.gather_problems()
        return list(self.results(is_final=last))

    def results(self, *, is_final: bool) -> Iterator[AuditResult]:
        """One result for every trick, in the order of the groups."""
        for group, (description, no_effect) in self._findings().items():
            option = self.spec.options[group]
            on = OFF_OPTIONS.get(group) != option  # a loss is always on
            yield AuditResult(
                group,
                option,
                description,
                tuple(self.step_monitor.problems.get(group, ())),
                no_effect if is_final and on else None,
                self.weight_changes.find_warning(self.run)
                if is_final and group == "optimizer"
                else None,
            )

    def _track_learning_rates(self, point: MetricsEvent) -> None:
        """Whether the schedule, without the warm-up, has changed a learning rate so far."""
        schedule, moves = self.run.lr_schedule, point.epoch - 1
        if schedule.per == "step":
            moves = point.step - 1
        for group, last in zip(
            self.run.optimizer.param_groups, schedule.scheduler.get_last_lr(), strict=True
        ):
            name = group["name"]
            lr = float(last) if schedule.is_metric_driven else self.expected.lr_curves[name][moves]
            self.rates_moved |= not math.isclose(
                lr, self.expected.base_lr[name], rel_tol=LR_TOLERANCE
            )

    def _before_step(self, step: int, epoch: int) -> None:
        optimizer, watch = self.run.optimizer, self.step_monitor
        for problem in self.optimizer_groups.check_members(optimizer, epoch):
            watch.add_problem("optimizer", problem)
        for problem in self.optimizer_groups.check_requires_grad(epoch):
            watch.add_problem("freeze", problem)
        for problem in self.optimizer_groups.check_options(optimizer):
            watch.add_problem("param_groups", problem)
        moves = step - 1 if self.run.lr_schedule.per == "step" else epoch
        if not watch.problems.get("param_groups") and self._has_exact_step_count:
            for problem in self.optimizer_groups.check_learning_rates(optimizer, moves, step - 1):
                watch.add_problem("scheduler", problem)

    @property
    def _has_exact_step_count(self) -> bool:
        """Whether every call of the optimizer is a step; a fused one skips a step that overflowed
        itself."""
        fused = any(group.get("fused") for group in self.run.optimizer.param_groups)
        return not (fused and self.run.scaler.is_enabled())

    def _check_end(self) -> None:
        watch, run = self.step_monitor, self.run
        skipped = run.nonfinite_guard.skipped_batches
        if not run.scaler.is_enabled() and watch.steps != watch.batches - skipped:
            watch.add_problem(
                "optimizer",
                f"it took {watch.steps} steps in {watch.batches} batches, {skipped} skipped",
            )
        moves = watch.steps if run.lr_schedule.per == "step" else self.epoch
        if run.lr_schedule.scheduler.last_epoch != moves and self._has_exact_step_count:
            watch.add_problem(
                "scheduler",
                f"it took {run.lr_schedule.scheduler.last_epoch} steps, the optimizer "
                f"{watch.steps} in {pluralize(self.epoch, 'epoch')}",
            )
        share = watch.clipped_steps.item() / max(1, watch.batches)
        if abs(share - self.hit_rate) > 1e-6:
            watch.add_problem(
                "clip", f"it clipped {format_percent(share)} of steps, not {self.hit_rate:.4f}"
            )
        for problem in self.frozen_weights.find_changed(run.average.model, self.epoch - 1):
            watch.add_problem("average", problem)
        for group, problem in self.run_checks.find_problems():
            watch.add_problem(group, problem)

    def _findings(self) -> dict[str, tuple[str, str | None]]:
        """By group: what was checked, and why it had no effect, if so."""
        watch, run, expected = self.step_monitor, self.run, self.expected
        share = watch.clipped_steps.item() / max(1, watch.batches)
        return {
            "sampler": self.run_checks.sampler_finding(),
            "loss": (f"targets were {watch.targets}, as the loss requires", self._loss_no_effect),
            "freeze": (
                self.frozen_weights.describe(),
                None if any(expected.unfreeze_epochs.values()) else "nothing was frozen",
            ),
            "param_groups": (
                f"{pluralize(len(expected.base_lr), 'group')}, options and ratios as specified",
                "every parameter got the optimizer's own settings"
                if expected.has_only_defaults
                else None,
            ),
            "optimizer": (
                f"held exactly the trained parameters; {pluralize(watch.steps, 'step')} for "
                f"{watch.batches} batches",
                None,
            ),
            "sharpness": (
                "weights, BatchNorm's statistics and random streams were unchanged",
                None if watch.steeper else "the gradients were unchanged",
            ),
            "scheduler": (
                f"{pluralize(run.lr_schedule.scheduler.last_epoch, 'scheduler step')}, one per "
                f"{run.lr_schedule.per}; learning rates as planned",
                None if self.rates_moved else "it never changed a learning rate",
            ),
            "warmup": self._warmup_finding(),
            "clip": (
                "got unscaled gradients, and the optimizer what it returned"
                + (f"; clipped {format_percent(share)} of steps" if share else ""),
                None if watch.clipped_steps.item() else "it never clipped",
            ),
            "precision": (
                "the forward pass computed in 16 bits" if watch.half else "no 16-bit output",
                None if watch.half else "no layer computed in 16 bits",
            ),
            "augment": (
                f"returned {watch.gives}, drawing only from its generator",
                None if watch.augmented else "no batch was changed",
            ),
            "average": (
                "frozen tensors are unchanged in the average",
                "the averaged weights and statistics are those of the last step"
                if has_same_weights(run.model, run.average.model)
                else None,
            ),
            "evaluation": self.run_checks.evaluation_finding(),
            "stop": self.run_checks.stop_finding(),
        }

    def _warmup_finding(self) -> tuple[str, str | None]:
        rise = [f for f in self.expected.warmup_factors if f != 1]
        if not rise:
            return "learning rates are those of the scheduler", "it never changed a learning rate"
        return f"learning rates times {rise[0]:g} to 1 in {pluralize(len(rise), 'step')}", None


def _no_effect_reason(run: Run) -> str | None:
    """Why the loss changes nothing with its settings, by its registered `no_effect`."""
    component = run.components["loss"]
    explain = contract.no_effect.find(component.function)
    if explain is None:
        return None
    reason: str | None = explain(**component.bind(run.dataset_properties).keywords)
    return reason


def _clip_check(run: Run) -> Callable[[list[nn.Parameter]], Iterator[str]]:
    """The registered `audit` of the clip with its settings."""
    bound = run.components["clip"].bind()
    audit = contract.audit.find(bound)
    if audit is None:
        return lambda params: iter(())
    if contract.needs_model.marks(bound):
        return lambda params: audit(params, run.model, **bound.keywords)
    return functools.partial(audit, **bound.keywords)
