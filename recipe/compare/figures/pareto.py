"""What each variant reached against what it cost, and which of them no other beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recipe.compare.figures.labels import PointLabel, place_labels
from recipe.compare.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    apply_report_style,
    compute_axis_limits,
    draw_message,
    format_label,
    hide_spines,
    is_plottable,
    set_title,
)
from recipe.formatting import pluralize

MAX_LABELS = 20
"""Beyond so many only efficient ones have their names beside them."""
MAX_LARGE_MARKERS = 200
"""More spots than that are drawn small, and only the efficient ones with their intervals."""
LOG_SCALE_RATIO = 30
"""Costs further apart than so many times are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class ParetoPoint:
    label: str
    cost: float
    value: float
    low: float
    """The value's interval; NaN or infinite where there is none."""
    high: float
    is_efficient: bool
    """No other is better without costing more, as far as can be told."""


@apply_report_style
def plot_pareto(spots: Sequence[ParetoPoint], *, cost: str, value: str, title: str) -> Figure:
    there = [spot for spot in spots if is_plottable(spot.cost) and is_plottable(spot.value)]
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    set_title(figure, title)
    axes.set(xlabel=format_label(cost, 90), ylabel=format_label(value, 60))
    hide_spines(axes)
    if not there:
        draw_message(axes, f"{cost}: not known of any variant" if spots else "nothing to compare")
        return figure
    _set_axis_limits(axes, there)
    _draw_points(axes, there)
    if len(there) < len(spots):
        missing = f"{pluralize(len(spots) - len(there), 'variant')} without a number left out"
        axes.set_title(missing, fontsize="small", loc="right", color=GREY)
    named = there if len(there) <= MAX_LABELS else [s for s in there if s.is_efficient]
    first = sorted(named, key=lambda spot: not spot.is_efficient)[:MAX_LABELS]
    labels = [
        PointLabel(format_label(s.label, 36), s.cost, s.value, is_bold=s.is_efficient)
        for s in first
    ]
    lines = (
        [place for line in _sample_lines(axes) for place in line]
        if len(there) <= MAX_LARGE_MARKERS
        else []
    )
    place_labels(axes, labels, [(spot.cost, spot.value) for spot in there], lines)
    return figure


def _set_axis_limits(axes: Axes, spots: Sequence[ParetoPoint]) -> None:
    costs = [spot.cost for spot in spots]
    if min(costs) > 0 and max(costs) > LOG_SCALE_RATIO * min(costs):
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 1.3, max(costs) * 1.3)
    else:
        axes.set_xlim(compute_axis_limits(costs, 0.08))
    values = [v for spot in spots for v in (spot.value, spot.low, spot.high) if is_plottable(v)]
    axes.set_ylim(compute_axis_limits(values, 0.08))


def _draw_points(axes: Axes, spots: Sequence[ParetoPoint]) -> None:
    many = len(spots) > MAX_LARGE_MARKERS
    best, others = [s for s in spots if s.is_efficient], [s for s in spots if not s.is_efficient]
    looks = (
        (best, ORANGE, "D", 40, "no other is better without costing more"),
        (others, BLUE, "o", 8 if many else 28, "another is better, and not shown to cost more"),
    )
    for some, colour, marker, size, words in looks:
        if not some:
            continue
        if some is best or not many:
            _draw_intervals(axes, some, colour)
        axes.scatter(
            [spot.cost for spot in some],
            [spot.value for spot in some],
            s=size,
            color=colour,
            marker=marker,
            edgecolors="white",
            linewidths=0.6,
            label=words,
            zorder=4 if some is best else 3,
        )
    edge = sorted((spot.cost, spot.value) for spot in best)
    if len(edge) > 1:
        axes.step(*zip(*edge, strict=True), where="post", color=ORANGE, linewidth=1, zorder=2)
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")


def _draw_intervals(axes: Axes, spots: Sequence[ParetoPoint], colour: str) -> None:
    there = [spot for spot in spots if is_plottable(spot.low) and is_plottable(spot.high)]
    axes.vlines(
        [spot.cost for spot in there],
        [spot.low for spot in there],
        [spot.high for spot in there],
        colors=colour,
        linewidth=1.2,
        alpha=0.6,
        zorder=1,
    )


def _sample_lines(axes: Axes) -> Iterator[NDArray[np.float64]]:
    """Places close together on the intervals and on the line that joins the efficient ones."""
    ends = [segment for drawn in axes.collections for segment in _get_segments(drawn)]
    for line in axes.lines:
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        for i in range(len(x) - 1):
            ends += [np.array([(x[i], y[i]), (x[i + 1], y[i])])]
            ends += [np.array([(x[i + 1], y[i]), (x[i + 1], y[i + 1])])]
    for start, end in ends:
        yield np.linspace(start, end, 60)


def _get_segments(drawn: Collection) -> list[NDArray[np.float64]]:
    return drawn.get_segments() if isinstance(drawn, LineCollection) else []
