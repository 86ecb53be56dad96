"""The pictures of a run: learning rates and curves, as PNG files."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

History = Mapping[str, Sequence[tuple[int, float]]]
"""(step, value) of every metric, in order."""


def learning_rates(history: History, path: Path) -> None:
    """`lr/<group>` against the step, one line a group."""
    figure = Figure(figsize=(7, 3.2))
    # matplotlib's own layouts draw everything several times over
    figure.subplots_adjust(left=0.12, right=0.98, bottom=0.15, top=0.91)
    axes = figure.subplots()
    for key in history:
        if key.startswith("lr/"):
            axes.step(*_columns(history, key), where="post", label=key.removeprefix("lr/"))
    axes.set(xlabel="step", ylabel="learning rate", ylim=(0, None))
    _short(axes)
    axes.legend(loc="best", fontsize="small")
    save(figure, path)


def curves(history: History, path: Path) -> None:
    """Loss, accuracy and gradient norm against the step, training beside validation."""
    figure = Figure(figsize=(12, 3.6))
    figure.subplots_adjust(left=0.055, right=0.99, bottom=0.14, top=0.91, wspace=0.22)
    panels = (
        ("loss", ("train/loss", "val/loss")),
        ("accuracy", ("train/accuracy", "val/accuracy")),
        ("gradient norm before clipping", ("clip/grad_norm",)),
    )
    for axes, (title, keys) in zip(figure.subplots(1, 3), panels, strict=True):
        for key in keys:
            if key in history:
                every_step = not key.startswith("val/")
                axes.plot(
                    *_columns(history, key),
                    label=key,
                    linewidth=0.8 if every_step else 1.8,
                    alpha=0.6 if every_step else 1.0,
                    marker=None if every_step else "o",
                    markersize=3,
                )
        axes.set(title=title, xlabel="step")
        _short(axes)
        axes.legend(loc="best", fontsize="small")
    save(figure, path)


def _short(axes: Axes) -> None:
    """Numbers beside the axis that fit its margin, whatever their size."""
    axes.ticklabel_format(axis="y", scilimits=(-2, 4))


def _columns(history: History, key: str) -> tuple[list[int], list[float]]:
    return [step for step, _ in history[key]], [value for _, value in history[key]]


def save(figure: Figure, path: Path) -> None:
    FigureCanvasAgg(figure)
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # a group's name, in boxes
        figure.savefig(path, dpi=110)
