"""`find-lr`: the learning-rate range test, a few training steps with increasing learning rates.

Source: Smith 2017, https://arxiv.org/abs/1506.01186, section 3.3, with a geometric increase as in
fastai's `lr_find`. fastai smooths the loss over earlier steps, which shifts its slope to higher
learning rates; here it is smoothed over the steps on both sides.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import islice
from pathlib import Path

import numpy as np
import numpy.typing as npt
from matplotlib.figure import Figure
from rich.console import Console

from recipe import output
from recipe.checkpoint import state
from recipe.config.spec import RunSpec
from recipe.formatting import relative_to_cwd
from recipe.nn import rng
from recipe.runner import component_errors, plots
from recipe.store import run_dirs
from recipe.training.loop import train
from recipe.training.lr_schedule import LRSchedule
from recipe.training.nonfinite import NonFiniteError
from recipe.training.run import Run

DIVERGENCE_FACTOR = 4.0
"""The test ends when the loss is this many times its minimum."""

SMOOTHING_FRACTION = 0.06
"""Share of the steps, on either side, over which the loss is smoothed."""

MIN_RELIABLE_STEPS = 50


def find_lr(
    spec: RunSpec, run: Run, console: Console, *,
    min_lr: float, max_lr: float, num_steps: int, command: Sequence[str],
) -> None:  # fmt: skip
    """Runs the range test, saves its figure in `<outputs>/reports/`, and prints the suggestion.

    `command` has the overrides from which the spec was composed, for the command to try next.
    """
    output.set_current_task("training at rising learning rates")
    base_lr = float(spec.optimizer["lr"])
    check_arguments(base_lr, min_lr=min_lr, max_lr=max_lr, steps=num_steps)
    folder = spec.output_path / "reports"
    folder.mkdir(parents=True, exist_ok=True)
    with component_errors.wrap_component_errors(spec, run):
        found = run_lr_range_test(run, base_lr, min_lr=min_lr, max_lr=max_lr, steps=num_steps)
    path = folder / f"find-lr-{run_dirs.new_run_id()}.png"
    plot_range_test(found, path)
    for line in [_describe_range_test(found), *_suggest_lr(found, run, base_lr, command)]:
        console.print(line, soft_wrap=True)
    console.print(f"Figure   {relative_to_cwd(path)}", soft_wrap=True)


@dataclass(frozen=True)
class LRRangeTest:
    learning_rates: Sequence[float]
    """The optimizer's learning rate in each step; increasing."""
    losses: Sequence[float]
    """The training loss of each step's batch."""
    has_diverged: bool
    """Whether it ended early because the loss increased."""

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
        """The step, up to the lowest loss, where the loss falls fastest against log(rate); None if
        it never falls."""
        before = self.lowest_loss_step + 1
        if before < 3:
            return None
        slopes = np.gradient(self.smoothed_losses[:before], np.log(self.learning_rates[:before]))
        return int(slopes.argmin()) if slopes.min() < 0 else None


def check_arguments(base_lr: float, *, min_lr: float, max_lr: float, steps: int) -> None:
    """Raises ValueError unless 0 < min_lr < max_lr, steps >= 10 and base_lr > 0."""
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
    """Trains for up to `steps` steps, increases the learning rate from `min_lr` to `max_lr`, and
    then restores the run.

    `base_lr` is the optimizer's configured learning rate; each parameter group keeps its ratio to
    it. The run's schedule is not used; everything else is as in training.
    """
    rates = [min_lr * (max_lr / min_lr) ** (n / (steps - 1)) for n in range(steps)]
    losses: list[float] = []
    with _preserve_run(run):
        run.epochs = -(-steps // run.steps_per_epoch)
        run.lr_schedule = _ExponentialSchedule(run, [rate / base_lr for rate in rates])
        try:
            for point in islice((p for p in train(run) if not p.is_epoch_end), steps):
                losses.append(point.metrics["train/loss"])
                if _is_diverging(losses):
                    break
        except NonFiniteError:
            pass
    return LRRangeTest(rates[: len(losses)], losses, has_diverged=len(losses) < steps)


def _is_diverging(losses: Sequence[float]) -> bool:
    """Uses the last three losses, so that no single batch ends the test."""
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
        """Does nothing: rates change only after steps."""


@contextmanager
def _preserve_run(run: Run) -> Iterator[None]:
    """Restores the complete state of the run afterwards, bit-identically."""
    before, epochs, schedule = state.capture_state(run), run.epochs, run.lr_schedule
    unfreeze_schedule = run.freeze_schedule.unfreeze_schedule
    run.freeze_schedule.unfreeze_schedule = {}
    stop, run.stop = run.stop, lambda accuracies: False
    with rng.isolate_rng():
        try:
            yield
        finally:
            run.epochs, run.lr_schedule, run.stop = epochs, schedule, stop
            run.optimizer.zero_grad(set_to_none=True)
            run.optimizer.state.clear()
            state.restore_state(run, before)
            run.freeze_schedule.unfreeze_schedule = unfreeze_schedule


def plot_range_test(found: LRRangeTest, path: Path) -> None:
    """Plots the losses against the learning rate, as a PNG file."""
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


def _describe_range_test(found: LRRangeTest) -> str:
    rates, losses, lowest = found.learning_rates, found.smoothed_losses, found.lowest_loss_step
    end = "the loss diverged" if found.has_diverged else "the test ended"
    return (
        f"{len(rates)} steps, optimizer.lr from {rates[0]:.2g} to {rates[-1]:.2g}, where {end}; "
        f"smoothed loss {losses[0]:.4g} at first, "
        f"lowest {losses[lowest]:.4g} at {rates[lowest]:.2g}"
    )


def _suggest_lr(
    found: LRRangeTest, run: Run, base_lr: float, command: Sequence[str]
) -> Iterator[str]:
    if found.steepest_step is None:
        yield "No suggestion: the loss never fell; see the figure, and use other values of from, to"
        return
    rate = found.learning_rates[found.steepest_step]
    yield f"Suggests optimizer.lr={rate:.2g}, where the loss falls fastest; now it is {base_lr:g}"
    if (steps := len(found.learning_rates)) < MIN_RELIABLE_STEPS:
        yield f"Caution {steps} steps are few, so this is a rough estimate; use steps=100 or more"
    if any(lr != base_lr for lr in run.base_lr.values()):
        groups = ", ".join(f"{name} {lr * rate / base_lr:.2g}" for name, lr in run.base_lr.items())
        yield f"  with the same factor for every group: {groups}"
    rest = [override for override in command if not override.startswith("optimizer.lr=")]
    yield f"Try it   python -m recipe {' '.join([*rest, f'optimizer.lr={rate:.2g}'])}"
    yield "One batch per rate is no comparison; for one, use a sweep over optimizer.lr"
