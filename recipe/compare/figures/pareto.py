"""A Pareto plot: the value of each variant against its cost, with the efficient ones marked."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import LineCollection
from matplotlib.figure import Figure

from recipe.compare.figures.labels import PointLabel, place_labels
from recipe.compare.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    compute_axis_limits,
    draw_message,
    format_label,
    hide_spines,
    is_plottable,
    report_style,
    set_title,
)
from recipe.formatting import pluralize

MAX_LABELS = 20  # with more points, only efficient ones are labelled
MAX_LARGE_MARKERS = 200  # with more points, only efficient ones have intervals
LOG_SCALE_RATIO = 30  # of the largest to the smallest cost


@dataclass(frozen=True)
class ParetoPoint:
    """A variant; `low` and `high`, the bounds of its value, are NaN or infinite if unknown."""

    label: str
    cost: float
    value: float
    low: float
    high: float
    is_efficient: bool
    """No other variant is better without costing more."""


@report_style()
def plot_pareto(points: Sequence[ParetoPoint], *, cost: str, value: str, title: str) -> Figure:
    shown = [point for point in points if is_plottable(point.cost) and is_plottable(point.value)]
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    set_title(figure, title)
    axes.set(xlabel=format_label(cost, 90), ylabel=format_label(value, 60))
    hide_spines(axes)
    if not shown:
        draw_message(axes, f"{cost}: unknown for all variants" if points else "nothing to compare")
        return figure
    _set_axis_limits(axes, shown)
    _draw_points(axes, shown)
    if len(shown) < len(points):
        missing = f"{pluralize(len(points) - len(shown), 'variant')} without a number not shown"
        axes.set_title(missing, fontsize="small", loc="right", color=GREY)
    named = shown if len(shown) <= MAX_LABELS else [p for p in shown if p.is_efficient]
    first = sorted(named, key=lambda point: not point.is_efficient)[:MAX_LABELS]
    labels = [
        PointLabel(format_label(p.label, 36), p.cost, p.value, is_bold=p.is_efficient)
        for p in first
    ]
    lines = _sample_lines(axes) if len(shown) <= MAX_LARGE_MARKERS else []
    place_labels(axes, labels, [(p.cost, p.value) for p in shown], lines)
    return figure


def _set_axis_limits(axes: Axes, points: Sequence[ParetoPoint]) -> None:
    costs = [point.cost for point in points]
    if min(costs) > 0 and max(costs) > LOG_SCALE_RATIO * min(costs):
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 1.3, max(costs) * 1.3)
    else:
        axes.set_xlim(compute_axis_limits(costs, 0.08))
    values = [v for p in points for v in (p.value, p.low, p.high) if is_plottable(v)]
    axes.set_ylim(compute_axis_limits(values, 0.08))


def _draw_points(axes: Axes, points: Sequence[ParetoPoint]) -> None:
    many = len(points) > MAX_LARGE_MARKERS
    best, others = [p for p in points if p.is_efficient], [p for p in points if not p.is_efficient]
    styles = (
        (best, ORANGE, "D", 40, "no other is better without costing more"),
        (others, BLUE, "o", 8 if many else 28, "another is better, and not shown to cost more"),
    )
    for some, color, marker, size, label in styles:
        if not some:
            continue
        if some is best or not many:
            _draw_intervals(axes, some, color)
        axes.scatter(
            [point.cost for point in some],
            [point.value for point in some],
            s=size,
            color=color,
            marker=marker,
            edgecolors="white",
            linewidths=0.6,
            label=label,
            zorder=4 if some is best else 3,
        )
    front = sorted((point.cost, point.value) for point in best)
    if len(front) > 1:
        axes.step(*zip(*front, strict=True), where="post", color=ORANGE, linewidth=1, zorder=2)
    axes.figure.legend(loc="outside lower center", ncols=2, frameon=False, fontsize="small")


def _draw_intervals(axes: Axes, points: Sequence[ParetoPoint], color: str) -> None:
    known = [p for p in points if is_plottable(p.low) and is_plottable(p.high)]
    axes.vlines(
        [point.cost for point in known],
        [point.low for point in known],
        [point.high for point in known],
        colors=color,
        linewidth=1.2,
        alpha=0.6,
        zorder=1,
    )


def _sample_lines(axes: Axes) -> list[tuple[float, float]]:
    """Points along the intervals and the steps of the Pareto front."""
    ends: list[tuple[Any, Any]] = []
    for drawn in axes.collections:
        if isinstance(drawn, LineCollection):
            ends += [(start, end) for start, end in drawn.get_segments()]
    for line in axes.lines:
        for (x, y), (next_x, next_y) in itertools.pairwise(np.asarray(line.get_xydata())):
            ends += [((x, y), (next_x, y)), ((next_x, y), (next_x, next_y))]
    return [(x, y) for start, end in ends for x, y in np.linspace(start, end, 60)]
