"""The learning-rate range test: a few steps in which the learning rate rises until the loss does.

Source: Smith 2017, https://arxiv.org/abs/1506.01186, section 3.3, with a geometric rise as fastai's
`lr_find` has it. There the loss is smoothed over the steps before, which moves its slope to higher
rates; here over the steps on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure

from recipe.checkpoint import state
from recipe.nn import rng
from recipe.runner import plots
from recipe.training.loop import MetricsEvent, train
from recipe.training.lr_schedule import LRSchedule
from recipe.training.nonfinite import NonFiniteError

if TYPE_CHECKING:
    from recipe.training.run import Run

DIVERGENCE_FACTOR = 4.0
"""So many times the lowest loss ends the test."""

SMOOTHING_FRACTION = 0.06
"""Of the steps on either side over which the loss is smoothed."""


@dataclass(frozen=True)
class LRRangeTest:
    learning_rates: Sequence[float]
    """Of the optimizer itself, before each step; growing."""
    losses: Sequence[float]
    """Of the training batch of each step."""
    has_diverged: bool
    """It ended early, as the loss rose."""

    @property
    def smoothed_losses(self) -> npt.NDArray[np.float64]:
        """The mean of the losses around each step, shape (steps,)."""
        reach = max(1, round(SMOOTHING_FRACTION * len(self.losses)))
        sums = np.cumsum([0.0, *self.losses])
        ends = np.arange(len(self.losses))
        low, high = np.maximum(ends - reach, 0), np.minimum(ends + reach + 1, len(self.losses))
        return np.asarray((sums[high] - sums[low]) / (high - low))

    @property
    def lowest_loss_step(self) -> int:
        """The step with the lowest smoothed loss."""
        return int(self.smoothed_losses.argmin())

    @property
    def steepest_step(self) -> int | None:
        """The step before that one where the loss falls fastest against the logarithm of the rate;
        None if it never falls."""
        before = self.lowest_loss_step + 1
        if before < 3:
            return None
        slopes = np.gradient(self.smoothed_losses[:before], np.log(self.learning_rates[:before]))
        return int(slopes.argmin()) if slopes.min() < 0 else None


def check_arguments(base_lr: float, *, min_lr: float, max_lr: float, steps: int) -> None:
    """Raises ValueError for what `range_test` doesn't take."""
    if not 0 < min_lr < max_lr < math.inf:
        raise ValueError(f"from must be above 0 and below to, got from={min_lr:g} to={max_lr:g}")
    if steps < 10:
        raise ValueError(f"steps must be at least 10, got {steps}")
    if not base_lr > 0:
        raise ValueError(
            f"optimizer.lr is {base_lr:g}, so no rate is a multiple of it; give another"
        )


def run_lr_range_test(
    run: Run, base_lr: float, *, min_lr: float, max_lr: float, steps: int
) -> LRRangeTest:
    """Trains for up to `steps` steps, the learning rate rising from `lowest` to `highest`, and
    leaves the run as it was.

    `own` is the optimizer's own learning rate, which the rates are of: every group keeps its ratio
    to it. The run's schedule is left out; all else is as in training. Raises ValueError unless
    0 < lowest < highest, there are at least ten steps, and `own` is above 0.
    """
    check_arguments(base_lr, min_lr=min_lr, max_lr=max_lr, steps=steps)
    rates = [min_lr * (max_lr / min_lr) ** (n / (steps - 1)) for n in range(steps)]
    losses: list[float] = []
    with _preserve_run(run):
        run.epochs = -(-steps // run.steps_per_epoch)
        run.lr_schedule = _ExponentialSchedule(run, [rate / base_lr for rate in rates])
        try:
            for point in _iter_steps(run):
                losses.append(point.metrics["train/loss"])
                if len(losses) == steps or _is_diverging(losses):
                    break
        except NonFiniteError:
            pass
    return LRRangeTest(rates[: len(losses)], losses, has_diverged=len(losses) < steps)


def _iter_steps(run: Run) -> Iterator[MetricsEvent]:
    return (point for point in train(run) if not point.is_epoch_end)


def _is_diverging(losses: Sequence[float]) -> bool:
    """By the last three losses together, so that no single batch ends the test."""
    return len(losses) >= 6 and min(losses[-3:]) > DIVERGENCE_FACTOR * min(losses)


class _ExponentialSchedule(LRSchedule):
    """Sets the learning rates of all groups before each step."""

    def __init__(self, run: Run, factors: Sequence[float]) -> None:
        super().__init__(run.lr_schedule.scheduler, "step", None)
        self._run, self._factors = run, iter(factors)
        self.after_step()

    def after_step(self) -> None:
        factor = next(self._factors, None)
        if factor is not None:
            for group in self._run.optimizer.param_groups:
                group["lr"] = self._run.base_lr[group["name"]] * factor

    def after_epoch(self, metrics: object) -> None:
        """An epoch's end is nothing to it."""


@contextmanager
def _preserve_run(run: Run) -> Iterator[None]:
    """Afterwards everything a run is made of is what it was, to the bit."""
    before, epochs, schedule = state.capture_state(run), run.epochs, run.lr_schedule
    timetable, run.freeze_schedule.unfreeze_schedule = (
        run.freeze_schedule.unfreeze_schedule,
        {},
    )  # what is frozen stays so meanwhile
    stop, run.stop = run.stop, lambda accuracies: False
    with rng.isolate_rng():
        try:
            yield
        finally:
            run.epochs, run.lr_schedule, run.stop = epochs, schedule, stop
            run.optimizer.zero_grad(set_to_none=True)
            run.optimizer.state.clear()
            state.restore_state(run, before)
            run.freeze_schedule.unfreeze_schedule = timetable


def plot_range_test(found: LRRangeTest, path: Path) -> None:
    """The losses against the learning rate, as a PNG file."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.learning_rates, found.losses, linewidth=0.8, alpha=0.5, label="loss of a batch")
    axes.plot(found.learning_rates, found.smoothed_losses, linewidth=1.8, label="smoothed")
    if found.steepest_step is not None:
        rate = found.learning_rates[found.steepest_step]
        axes.axvline(rate, color="black", linestyle="--", label=f"falls fastest: {rate:.2g}")
    top = float(np.max(found.smoothed_losses[: found.lowest_loss_step + 1]))
    axes.set(xscale="log", xlabel="optimizer.lr", ylabel="train/loss", ylim=(0, 1.5 * top))
    axes.legend(loc="best", fontsize="small")
    plots.save_figure(figure, path)
