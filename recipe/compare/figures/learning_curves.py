"""Learning curves: each variant's mean over seeds, with a band."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator
from numpy.typing import NDArray

from recipe.compare.figures.style import (
    LIGHT_GREY,
    LINE_COLORS,
    MAX_PLOTTABLE,
    compute_axis_limits,
    draw_message,
    format_label,
    hide_spines,
    is_plottable,
    report_style,
    set_title,
)

MAX_MARKED_EPOCHS = 20
LINE_STYLES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class CurveBand:
    """A curve by epoch; `low` and `high`, the bounds of its band, are NaN where unknown."""

    label: str
    epochs: Sequence[float]
    mean: Sequence[float]
    low: Sequence[float]
    high: Sequence[float]


@report_style()
def plot_learning_curves(bands: Sequence[CurveBand], *, label: str, title: str) -> Figure:
    """Draws the first ten in colour with their labels, and the rest in grey."""
    named, rest = bands[: len(LINE_COLORS)], bands[len(LINE_COLORS) :]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    set_title(figure, title)
    axes.set(xlabel="epoch", ylabel=format_label(label, 60))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    hide_spines(axes)
    grey = [np.column_stack((band.epochs, _mask_unplottable(band.mean))) for band in rest]
    axes.add_collection(LineCollection(grey, colors=LIGHT_GREY, linewidths=0.8, zorder=1))
    handles = []
    alpha = 0.15 if len(named) < 6 else 0.08
    for index, band in enumerate(named):
        mean, low, high = map(_mask_unplottable, (band.mean, band.low, band.high))
        color = LINE_COLORS[index]
        axes.fill_between(band.epochs, low, high, color=color, alpha=alpha, linewidth=0, zorder=2)
        [line] = axes.plot(
            band.epochs,
            mean,
            color=color,
            linestyle=LINE_STYLES[index % len(LINE_STYLES)],
            linewidth=1.8,
            marker="o" if len(band.epochs) <= MAX_MARKED_EPOCHS else None,
            markersize=3.5,
            zorder=3,
        )
        handles.append(line)
    epochs = _collect_plottable(band.epochs for band in bands)
    values = _collect_plottable(line for band in bands for line in (band.mean, band.low, band.high))
    if not values:
        draw_message(axes, "nothing to draw")
        return figure
    first, last = compute_axis_limits(epochs, 0.02)
    axes.set(
        xlim=(first, last) if last - first > 1 else (first - 1, last + 1),
        ylim=compute_axis_limits(values),
    )
    names = [format_label(band.label, 36) for band in named]
    if rest:
        handles.append(Line2D([], [], color=LIGHT_GREY, linewidth=0.8))
        names.append(f"{len(rest)} more")
    legend = figure.legend(
        handles, ["x"] * len(names), loc="outside right center", frameon=False, fontsize="small"
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)  # a label must not begin with an underscore
    return figure


def _collect_plottable(lines: Iterable[Sequence[float]]) -> list[float]:
    return [value for line in lines for value in line if is_plottable(value)]


def _mask_unplottable(values: Sequence[float]) -> NDArray[np.float64]:
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(numbers) < MAX_PLOTTABLE, numbers, np.nan)
