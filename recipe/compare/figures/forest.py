"""A forest plot: the effect of each trick with its interval, one row each."""

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
    compute_axis_limits,
    count_decimals,
    draw_message,
    format_label,
    is_plottable,
    report_style,
    set_title,
)

Mark = Literal["helps", "hurts", "shown", "open", "too few", "no effect"]
MARK_STYLES: dict[Mark, tuple[str, str, str, str]] = {
    # marker, edge, face, label
    "helps": ("^", GREEN, GREEN, "shown to help"),
    "hurts": ("v", ORANGE, ORANGE, "shown to hurt"),
    "shown": ("D", BLUE, BLUE, "shown to change"),
    "open": ("o", BLUE, "white", "inconclusive"),
    "too few": ("s", GREY, "white", "too few seeds for a verdict"),
    "no effect": ("X", GREY, GREY, "no effect"),
}
MAX_ROWS = 60


@dataclass(frozen=True)
class Effect:
    """A row; its mean is NaN if it wasn't measured, its bounds are NaN or infinite if they are
    unknown."""

    label: str
    mean: float
    low: float
    high: float
    mark: Mark
    annotation: str = ""
    """Printed after the numbers, such as `8 pairs`."""
    group: str = ""
    """Effects with the same group are drawn under its name."""


@report_style()
def plot_forest(effects: Sequence[Effect], *, unit: str, title: str) -> Figure:
    """Draws the rows at y = 0, -1, -2, ..., by group, in the order given."""
    groups = list(dict.fromkeys(effect.group for effect in effects[:MAX_ROWS]))
    rows: list[Effect | str] = []
    for group in groups:
        rows += [group] if group else []
        rows += [effect for effect in effects[:MAX_ROWS] if effect.group == group]
    figure = Figure(figsize=(8, 1.45 + 0.3 * max(len(rows), 2)), layout="constrained")
    axes = figure.subplots()
    set_title(figure, title)
    numbers = [
        value
        for effect in effects
        for value in (effect.mean, effect.low, effect.high)
        if is_plottable(value)
    ]
    xlim = compute_axis_limits([0.0, *numbers])
    axes.set(xlim=xlim, ylim=(0.6 - max(len(rows), 1), 0.6))
    axes.axvline(0, color=GREY, linewidth=1, zorder=1)
    axes.set_xlabel(format_label(unit, 90))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _draw_row_labels(axes, rows)
    if not effects:
        draw_message(axes, "no trick to compare")
    decimals = count_decimals(numbers)
    for index, row in enumerate(rows):
        if isinstance(row, Effect):
            _draw_effect(axes, row, -index, decimals)
    _draw_legend(figure, [row.mark for row in rows if isinstance(row, Effect)], len(effects))
    return figure


def _draw_row_labels(axes: Axes, rows: Sequence[Effect | str]) -> None:
    names = [format_label(row if isinstance(row, str) else row.label, 36) for row in rows]
    axes.set_yticks([-index for index in range(len(rows))], names)
    for row, name in zip(rows, axes.get_yticklabels(), strict=True):
        if isinstance(row, str):
            name.set_fontweight("bold")


def _draw_effect(axes: Axes, effect: Effect, y: float, decimals: int) -> None:
    marker, edge, face, _ = MARK_STYLES[effect.mark]
    if effect.low == effect.low and effect.high == effect.high:
        _draw_interval(axes, effect.low, effect.high, y, edge)
    if is_plottable(effect.mean):
        axes.plot(
            effect.mean,
            y,
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
        y,
        format_label(_format_effect(effect, decimals), 60),
        transform=axes.get_yaxis_transform(),
        va="center",
        color=GREY if effect.mark in ("open", "too few", "no effect") else "black",
        fontsize="small",
    )
    axes.axhline(y - 0.5, color=LIGHT_GREY, linewidth=0.3, zorder=0)


def _draw_interval(axes: Axes, low: float, high: float, y: float, color: str) -> None:
    """Draws an infinite bound as an arrow at the end of the axis."""
    left, right = axes.get_xlim()
    ends = (low if is_plottable(low) else left, high if is_plottable(high) else right)
    axes.plot(ends, (y, y), color=color, linewidth=2, solid_capstyle="butt", zorder=2)
    for value, end, arrow in zip((low, high), ends, "<>", strict=True):
        if not is_plottable(value):
            axes.plot(end, y, marker=arrow, color=color, clip_on=False, linestyle="none")


def _format_effect(effect: Effect, decimals: int) -> str:
    """`+0.40 (-0.10 to +0.90), 8 pairs`."""
    mean, low, high = (
        _format_signed(value, decimals) for value in (effect.mean, effect.low, effect.high)
    )
    text = mean if is_plottable(effect.mean) else "not measured"
    if effect.low == effect.low and effect.high == effect.high:
        text += f" ({low} to {high})"
    return f"{text}, {effect.annotation}" if effect.annotation else text


def _format_signed(value: float, decimals: int) -> str:
    if not is_plottable(value):
        return "+∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    return f"{value:+.{decimals}f}" if abs(value) < 1e6 else f"{value:+.3g}"


def _draw_legend(figure: Figure, marks: Sequence[Mark], number: int) -> None:
    handles = [
        Line2D([], [], color=edge, marker=marker, markerfacecolor=face, label=label)
        for mark, (marker, edge, face, label) in MARK_STYLES.items()
        if mark in marks
    ]
    if number > MAX_ROWS:
        handles.append(
            Line2D([], [], linestyle="none", label=f"{number - MAX_ROWS} more not shown")
        )
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            fontsize="small",
        )
