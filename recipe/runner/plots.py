"""Figures of a run: learning rates and metrics, as PNG files."""

from __future__ import annotations

import functools
import warnings
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recipe.runner.trick_effects import MetricHistory


def plot_learning_rates(history: MetricHistory, path: Path) -> None:
    """Plots `lr/<group>` against the step, one line per group."""
    figure, (axes,) = _get_empty_figure(1, 7, 3.2, left=0.12, right=0.98, bottom=0.15)
    for key in history:
        if key.startswith("lr/"):
            axes.step(
                *_get_steps_and_values(history, key), where="post", label=key.removeprefix("lr/")
            )
    axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    _shorten_tick_labels(axes)
    axes.legend(loc="best", fontsize="small")
    save_figure(figure, path)


def plot_curves(history: MetricHistory, path: Path) -> None:
    """Plots loss, accuracy and gradient norm against the step, for training and validation."""
    figure, three = _get_empty_figure(3, 12, 3.6, left=0.055, right=0.99, bottom=0.14, wspace=0.22)
    panels = (
        ("loss", ("train/loss", "val/loss")),
        ("accuracy", ("train/accuracy", "val/accuracy")),
        ("gradient norm before clipping", ("clip/grad_norm",)),
    )
    for axes, (title, keys) in zip(three, panels, strict=True):
        for key in keys:
            if key in history:
                every_step = not key.startswith("val/")
                axes.plot(
                    *_get_steps_and_values(history, key), label=key, markersize=3,
                    linewidth=0.8 if every_step else 1.8, alpha=0.6 if every_step else 1.0,
                    marker=None if every_step else "o",
                )  # fmt: skip
        axes.set(title=title, xlabel="step")
        _shorten_tick_labels(axes)
        axes.legend(loc="best", fontsize="small")
    save_figure(figure, path)


def _get_empty_figure(
    panels: int, width: float, height: float, **margins: float
) -> tuple[Figure, list[Axes]]:
    """A figure of the given size in inches, and its empty panels side by side."""
    figure = _get_cached_figure(panels, width, height)
    # matplotlib's layout engines draw everything several times
    figure.subplots_adjust(top=0.91, **margins)
    for axes in figure.axes:
        for line in list(axes.lines):
            line.remove()
        axes.set_prop_cycle(None)
        axes.relim()
        axes.autoscale()
    return figure, figure.axes


@functools.cache
def _get_cached_figure(panels: int, width: float, height: float) -> Figure:
    """Reused by all runs of a process: ticks and labels take longer to create than to draw."""
    figure = Figure(figsize=(width, height))
    figure.subplots(1, panels)
    return figure


def _shorten_tick_labels(axes: Axes) -> None:
    """Uses scientific notation for labels that don't fit the margin."""
    axes.ticklabel_format(axis="y", scilimits=(-2, 4))


def _get_steps_and_values(history: MetricHistory, key: str) -> tuple[list[int], list[float]]:
    return [step for step, _ in history[key]], [value for _, value in history[key]]


def save_figure(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        # a group's name may have any character
        warnings.filterwarnings("ignore", "Glyph .* missing from font")
        figure.savefig(path, dpi=110)
