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
from recipe.training.loop import Point, train
from recipe.training.lr_schedule import Schedule
from recipe.training.nonfinite import NonFinite

if TYPE_CHECKING:
    from recipe.training.run import Run

WORSE = 4.0
"""So many times the lowest loss ends the test."""

SHARE = 0.06
"""Of the steps on either side over which the loss is smoothed."""


@dataclass(frozen=True)
class RangeTest:
    rates: Sequence[float]
    """Of the optimizer itself, before each step; growing."""
    losses: Sequence[float]
    """Of the training batch of each step."""
    diverged: bool
    """It ended early, as the loss rose."""

    @property
    def smoothed(self) -> npt.NDArray[np.float64]:
        """The mean of the losses around each step, shape (steps,)."""
        reach = max(1, round(SHARE * len(self.losses)))
        sums = np.cumsum([0.0, *self.losses])
        ends = np.arange(len(self.losses))
        low, high = np.maximum(ends - reach, 0), np.minimum(ends + reach + 1, len(self.losses))
        return np.asarray((sums[high] - sums[low]) / (high - low))

    @property
    def lowest(self) -> int:
        """The step with the lowest smoothed loss."""
        return int(self.smoothed.argmin())

    @property
    def steepest(self) -> int | None:
        """The step before that one where the loss falls fastest against the logarithm of the rate;
        None if it never falls."""
        before = self.lowest + 1
        if before < 3:
            return None
        slopes = np.gradient(self.smoothed[:before], np.log(self.rates[:before]))
        return int(slopes.argmin()) if slopes.min() < 0 else None


def check(own: float, *, lowest: float, highest: float, steps: int) -> None:
    """Raises ValueError for what `range_test` doesn't take."""
    if not 0 < lowest < highest < math.inf:
        raise ValueError(f"from must be above 0 and below to, got from={lowest:g} to={highest:g}")
    if steps < 10:
        raise ValueError(f"steps must be at least 10, got {steps}")
    if not own > 0:
        raise ValueError(f"optimizer.lr is {own:g}, so no rate is a multiple of it; give another")


def range_test(run: Run, own: float, *, lowest: float, highest: float, steps: int) -> RangeTest:
    """Trains for up to `steps` steps, the learning rate rising from `lowest` to `highest`, and
    leaves the run as it was.

    `own` is the optimizer's own learning rate, which the rates are of: every group keeps its ratio
    to it. The run's schedule is left out; all else is as in training. Raises ValueError unless
    0 < lowest < highest, there are at least ten steps, and `own` is above 0.
    """
    check(own, lowest=lowest, highest=highest, steps=steps)
    rates = [lowest * (highest / lowest) ** (n / (steps - 1)) for n in range(steps)]
    losses: list[float] = []
    with _as_it_was(run):
        run.epochs = -(-steps // run.steps_per_epoch)
        run.schedule = _Rising(run, [rate / own for rate in rates])
        try:
            for point in _steps(run):
                losses.append(point.metrics["train/loss"])
                if len(losses) == steps or _diverges(losses):
                    break
        except NonFinite:
            pass
    return RangeTest(rates[: len(losses)], losses, diverged=len(losses) < steps)


def _steps(run: Run) -> Iterator[Point]:
    return (point for point in train(run) if not point.ends_epoch)


def _diverges(losses: Sequence[float]) -> bool:
    """By the last three losses together, so that no single batch ends the test."""
    return len(losses) >= 6 and min(losses[-3:]) > WORSE * min(losses)


class _Rising(Schedule):
    """Sets the learning rates of all groups before each step."""

    def __init__(self, run: Run, factors: Sequence[float]) -> None:
        super().__init__(run.schedule.scheduler, "step", None)
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
def _as_it_was(run: Run) -> Iterator[None]:
    """Afterwards everything a run is made of is what it was, to the bit."""
    before, epochs, schedule = state.capture(run), run.epochs, run.schedule
    timetable, run.frozen.timetable = run.frozen.timetable, {}  # what is frozen stays so meanwhile
    stop, run.stop = run.stop, lambda accuracies: False
    with rng.untouched():
        try:
            yield
        finally:
            run.epochs, run.schedule, run.stop = epochs, schedule, stop
            run.optimizer.zero_grad(set_to_none=True)
            run.optimizer.state.clear()
            state.restore(run, before)
            run.frozen.timetable = timetable


def picture(found: RangeTest, path: Path) -> None:
    """The losses against the learning rate, as a PNG file."""
    figure = Figure(figsize=(7, 3.6), layout="constrained")
    axes = figure.subplots()
    axes.plot(found.rates, found.losses, linewidth=0.8, alpha=0.5, label="loss of a batch")
    axes.plot(found.rates, found.smoothed, linewidth=1.8, label="smoothed")
    if found.steepest is not None:
        rate = found.rates[found.steepest]
        axes.axvline(rate, color="black", linestyle="--", label=f"falls fastest: {rate:.2g}")
    top = float(np.max(found.smoothed[: found.lowest + 1]))
    axes.set(xscale="log", xlabel="optimizer.lr", ylabel="train/loss", ylim=(0, 1.5 * top))
    axes.legend(loc="best", fontsize="small")
    plots.save(figure, path)
