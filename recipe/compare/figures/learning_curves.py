"""Learning curves: the mean over seeds of each variant, with a band around it."""

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
    FAINT,
    LARGEST,
    LINES,
    head,
    in_house_style,
    is_number,
    say,
    shown,
    span,
    without_frame,
)

FEW = 20
"""Epochs up to which each has a mark."""
DASHES = ("-", "--", "-.", ":")


@dataclass(frozen=True)
class Band:
    label: str
    x: Sequence[float]
    """Epochs."""
    mean: Sequence[float]
    low: Sequence[float]
    """The band; NaN where there is none."""
    high: Sequence[float]


@in_house_style
def curves_figure(bands: Sequence[Band], *, label: str, title: str) -> Figure:
    """The first ten with their names, the rest in grey and counted."""
    named, rest = bands[: len(LINES)], bands[len(LINES) :]
    figure = Figure(figsize=(8, 4.2), layout="constrained")
    axes = figure.subplots()
    head(figure, title)
    axes.set(xlabel="epoch", ylabel=shown(label, 60))
    axes.xaxis.set_major_locator(MaxNLocator(integer=True))
    without_frame(axes)
    grey = [np.column_stack((band.x, _numbers(band.mean))) for band in rest]
    axes.add_collection(LineCollection(grey, colors=FAINT, linewidths=0.8, zorder=1))
    handles = []
    alpha = 0.15 if len(named) < 6 else 0.08
    for place, band in enumerate(named):
        mean, low, high = map(_numbers, (band.mean, band.low, band.high))
        colour = LINES[place]
        axes.fill_between(
            band.x,
            low,
            high,
            color=colour,
            alpha=alpha,
            linewidth=0,
            zorder=2,
        )
        [line] = axes.plot(
            band.x,
            mean,
            color=colour,
            linestyle=DASHES[place % len(DASHES)],
            linewidth=1.8,
            marker="o" if len(band.x) <= FEW else None,
            markersize=3.5,
            zorder=3,
        )
        handles.append(line)
    across = _places(band.x for band in bands)
    along = _places(line for band in bands for line in (band.mean, band.low, band.high))
    if not along:
        say(axes, "nothing to draw")
        return figure
    first, last = span(across, 0.02)
    axes.set(xlim=(first, last) if last - first > 1 else (first - 1, last + 1), ylim=span(along))
    names = [shown(band.label, 36) for band in named]
    if rest:
        handles.append(Line2D([], [], color=FAINT, linewidth=0.8))
        names.append(f"{len(rest)} more")
    legend = figure.legend(
        handles, ["x"] * len(names), loc="outside right center", frameon=False, fontsize="small"
    )
    for text, name in zip(legend.get_texts(), names, strict=True):
        text.set_text(name)  # not as a label, which must not begin with an underscore
    return figure


def _places(lines: Iterable[Sequence[float]]) -> list[float]:
    return [value for line in lines for value in line if is_number(value)]


def _numbers(values: Sequence[float]) -> NDArray[np.float64]:
    """With NaN for what a picture has no place for."""
    numbers = np.asarray(values, dtype=np.float64)
    return np.where(np.abs(numbers) < LARGEST, numbers, np.nan)
