"""A forest plot: the effect of every trick with its interval, one row each."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from recipe.compare.figures.style import (
    BLUE,
    GREEN,
    GREY,
    LIGHT_GREY,
    ORANGE,
    apply_report_style,
    compute_axis_limits,
    count_decimals,
    draw_message,
    format_label,
    is_plottable,
    set_title,
)

Mark = Literal["helps", "hurts", "shown", "open", "too few", "no effect"]
MARK_STYLES: dict[Mark, tuple[str, str, str, str]] = {
    # marker, edge, face, words
    "helps": ("^", GREEN, GREEN, "shown to help"),
    "hurts": ("v", ORANGE, ORANGE, "shown to hurt"),
    "shown": ("D", BLUE, BLUE, "shown to change"),
    "open": ("o", BLUE, "white", "not shown either way"),
    "too few": ("s", GREY, "white", "too few seeds for a verdict"),
    "no effect": ("X", GREY, GREY, "did nothing"),
}
MAX_ROWS = 60
"""Rows that are drawn."""


@dataclass(frozen=True)
class Effect:
    label: str
    mean: float
    """NaN if it wasn't measured."""
    low: float
    """The interval; NaN where there is none, infinite where it has no end."""
    high: float
    mark: Mark
    annotation: str = ""
    """Stands behind the numbers, such as `8 pairs`."""
    group: str = ""
    """Rows of one group stand together under its name, in the order given."""


@apply_report_style
def plot_forest(effects: Sequence[Effect], *, unit: str, title: str) -> Figure:
    """Rows from top to bottom in the order given, by group; positions are 0, -1, -2, ..."""
    groups = list(dict.fromkeys(effect.group for effect in effects[:MAX_ROWS]))
    rows: list[Effect | str] = []
    for group in groups:
        rows += [group] if group else []
        rows += [effect for effect in effects[:MAX_ROWS] if effect.group == group]
    figure = Figure(figsize=(8, 1.45 + 0.3 * max(len(rows), 2)), layout="constrained")
    axes = figure.subplots()
    set_title(figure, title)
    axes.set(xlim=_compute_x_limits(effects[:MAX_ROWS]), ylim=(0.6 - max(len(rows), 1), 0.6))
    axes.axvline(0, color=GREY, linewidth=1, zorder=1)
    axes.set_xlabel(format_label(unit, 90))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _draw_row_labels(axes, rows)
    if not effects:
        draw_message(axes, "no trick to compare")
    places = count_decimals(
        [v for e in effects for v in (e.mean, e.low, e.high) if is_plottable(v)]
    )
    for place, row in enumerate(rows):
        if isinstance(row, Effect):
            _draw_effect(axes, row, -place, places)
    _draw_legend(figure, [row.mark for row in rows if isinstance(row, Effect)], len(effects))
    return figure


def _compute_x_limits(effects: Sequence[Effect]) -> tuple[float, float]:
    values = [value for e in effects for value in (e.mean, e.low, e.high) if is_plottable(value)]
    return compute_axis_limits([0.0, *values])


def _draw_row_labels(axes: Axes, rows: Sequence[Effect | str]) -> None:
    names = [format_label(row if isinstance(row, str) else row.label, 36) for row in rows]
    axes.set_yticks([-place for place in range(len(rows))], names)
    for row, name in zip(rows, axes.get_yticklabels(), strict=True):
        if isinstance(row, str):
            name.set_fontweight("bold")


def _draw_effect(axes: Axes, effect: Effect, place: float, places: int) -> None:
    marker, edge, face, _ = MARK_STYLES[effect.mark]
    if effect.low == effect.low and effect.high == effect.high:
        _draw_interval(axes, effect.low, effect.high, place, edge)
    if is_plottable(effect.mean):
        axes.plot(
            effect.mean,
            place,
            marker=marker,
            color=edge,
            markerfacecolor=face,
            markersize=8 if marker != "X" else 7,
            markeredgewidth=1.5 if face == "white" else 0.5,
            linestyle="none",
            zorder=3,
        )
    axes.text(
        1.02,
        place,
        format_label(_format_effect(effect, places), 60),
        transform=axes.get_yaxis_transform(),
        va="center",
        color=GREY if effect.mark in ("open", "too few", "no effect") else "black",
        fontsize="small",
    )
    axes.axhline(place - 0.5, color=LIGHT_GREY, linewidth=0.3, zorder=0)


def _draw_interval(axes: Axes, low: float, high: float, place: float, colour: str) -> None:
    """Up to the axis' end, with an arrow, where it is infinite."""
    left, right = axes.get_xlim()
    ends = (low if is_plottable(low) else left, high if is_plottable(high) else right)
    axes.plot(ends, (place, place), color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
    for value, end, arrow in zip((low, high), ends, "<>", strict=True):
        if not is_plottable(value):
            axes.plot(end, place, marker=arrow, color=colour, clip_on=False, linestyle="none")


def _format_effect(effect: Effect, places: int) -> str:
    """`+0.40 (-0.10 to +0.90), 8 pairs`."""
    message = _format_signed(effect.mean, places) if is_plottable(effect.mean) else "not measured"
    if effect.low == effect.low and effect.high == effect.high:
        message += (
            f" ({_format_signed(effect.low, places)} to {_format_signed(effect.high, places)})"
        )
    return f"{message}, {effect.annotation}" if effect.annotation else message


def _format_signed(value: float, places: int) -> str:
    """Exactly zero has no sign."""
    if not is_plottable(value):
        return "+∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    return f"{value:+.{places}f}" if abs(value) < 1e6 else f"{value:+.3g}"


def _draw_legend(figure: Figure, verdicts: Sequence[Mark], number: int) -> None:
    """The marks that occur, and how many rows are left out."""
    handles = [
        Line2D([], [], color=edge, marker=marker, markerfacecolor=face, label=words)
        for verdict, (marker, edge, face, words) in MARK_STYLES.items()
        if verdict in verdicts
    ]
    if number > MAX_ROWS:
        handles.append(Line2D([], [], linestyle="none", label=f"{number - MAX_ROWS} more left out"))
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            fontsize="small",
        )
