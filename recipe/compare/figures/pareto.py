"""What each variant reached against what it cost, and which of them no other beats in both."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import Collection, LineCollection
from matplotlib.figure import Figure
from numpy.typing import NDArray

from recipe.compare.figures.labels import Label, place_labels
from recipe.compare.figures.style import (
    BLUE,
    GREY,
    ORANGE,
    head,
    in_house_style,
    is_number,
    say,
    shown,
    span,
    without_frame,
)
from recipe.formatting import counted

MOST_LABELLED = 20
"""Beyond so many only efficient ones have their names beside them."""
MANY = 200
"""More spots than that are drawn small, and only the efficient ones with their intervals."""
WIDE = 30
"""Costs further apart than so many times are drawn on a logarithmic axis."""


@dataclass(frozen=True)
class Spot:
    label: str
    cost: float
    value: float
    low: float
    """The value's interval; NaN or infinite where there is none."""
    high: float
    efficient: bool
    """No other is better without costing more, as far as can be told."""


@in_house_style
def pareto_figure(spots: Sequence[Spot], *, cost: str, value: str, title: str) -> Figure:
    there = [spot for spot in spots if is_number(spot.cost) and is_number(spot.value)]
    figure = Figure(figsize=(8, 4.6), layout="constrained")
    axes = figure.subplots()
    head(figure, title)
    axes.set(xlabel=shown(cost, 90), ylabel=shown(value, 60))
    without_frame(axes)
    if not there:
        say(axes, f"{cost}: not known of any variant" if spots else "nothing to compare")
        return figure
    _limit(axes, there)
    _draw(axes, there)
    if len(there) < len(spots):
        missing = f"{counted(len(spots) - len(there), 'variant')} without a number left out"
        axes.set_title(missing, fontsize="small", loc="right", color=GREY)
    named = there if len(there) <= MOST_LABELLED else [s for s in there if s.efficient]
    first = sorted(named, key=lambda spot: not spot.efficient)[:MOST_LABELLED]
    labels = [Label(shown(s.label, 36), s.cost, s.value, strong=s.efficient) for s in first]
    lines = [place for line in _lines(axes) for place in line] if len(there) <= MANY else []
    place_labels(axes, labels, [(spot.cost, spot.value) for spot in there], lines)
    return figure


def _limit(axes: Axes, spots: Sequence[Spot]) -> None:
    costs = [spot.cost for spot in spots]
    if min(costs) > 0 and max(costs) > WIDE * min(costs):
        axes.set_xscale("log")
        axes.set_xlim(min(costs) / 1.3, max(costs) * 1.3)
    else:
        axes.set_xlim(span(costs, 0.08))
    values = [v for spot in spots for v in (spot.value, spot.low, spot.high) if is_number(v)]
    axes.set_ylim(span(values, 0.08))


def _draw(axes: Axes, spots: Sequence[Spot]) -> None:
    many = len(spots) > MANY
    best, others = [s for s in spots if s.efficient], [s for s in spots if not s.efficient]
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


def _draw_intervals(axes: Axes, spots: Sequence[Spot], colour: str) -> None:
    there = [spot for spot in spots if is_number(spot.low) and is_number(spot.high)]
    axes.vlines(
        [spot.cost for spot in there],
        [spot.low for spot in there],
        [spot.high for spot in there],
        colors=colour,
        linewidth=1.2,
        alpha=0.6,
        zorder=1,
    )


def _lines(axes: Axes) -> Iterator[NDArray[np.float64]]:
    """Places close together on the intervals and on the line that joins the efficient ones."""
    ends = [segment for drawn in axes.collections for segment in _segments(drawn)]
    for line in axes.lines:
        x, y = np.asarray(line.get_xdata()), np.asarray(line.get_ydata())
        for i in range(len(x) - 1):
            ends += [np.array([(x[i], y[i]), (x[i + 1], y[i])])]
            ends += [np.array([(x[i + 1], y[i]), (x[i + 1], y[i + 1])])]
    for start, end in ends:
        yield np.linspace(start, end, 60)


def _segments(drawn: Collection) -> list[NDArray[np.float64]]:
    return drawn.get_segments() if isinstance(drawn, LineCollection) else []
