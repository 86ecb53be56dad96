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
    FAINT,
    GREEN,
    GREY,
    ORANGE,
    decimals,
    head,
    in_house_style,
    is_number,
    say,
    shown,
    span,
)

Verdict = Literal["helps", "hurts", "shown", "open", "too few", "no effect"]
LOOKS: dict[Verdict, tuple[str, str, str, str]] = {
    # marker, edge, face, words
    "helps": ("^", GREEN, GREEN, "shown to help"),
    "hurts": ("v", ORANGE, ORANGE, "shown to hurt"),
    "shown": ("D", BLUE, BLUE, "shown to change"),
    "open": ("o", BLUE, "white", "not shown either way"),
    "too few": ("s", GREY, "white", "too few seeds for a verdict"),
    "no effect": ("X", GREY, GREY, "did nothing"),
}
MOST = 60
"""Rows that are drawn."""


@dataclass(frozen=True)
class Effect:
    label: str
    mean: float
    """NaN if it wasn't measured."""
    low: float
    """The interval; NaN where there is none, infinite where it has no end."""
    high: float
    verdict: Verdict
    note: str = ""
    """Stands behind the numbers, such as `8 pairs`."""
    group: str = ""
    """Rows of one group stand together under its name, in the order given."""


@in_house_style
def forest_figure(effects: Sequence[Effect], *, unit: str, title: str) -> Figure:
    """Rows from top to bottom in the order given, by group; positions are 0, -1, -2, ..."""
    groups = list(dict.fromkeys(effect.group for effect in effects[:MOST]))
    rows: list[Effect | str] = []
    for group in groups:
        rows += [group] if group else []
        rows += [effect for effect in effects[:MOST] if effect.group == group]
    figure = Figure(figsize=(8, 1.45 + 0.3 * max(len(rows), 2)), layout="constrained")
    axes = figure.subplots()
    head(figure, title)
    axes.set(xlim=_limits(effects[:MOST]), ylim=(0.6 - max(len(rows), 1), 0.6))
    axes.axvline(0, color=GREY, linewidth=1, zorder=1)
    axes.set_xlabel(shown(unit, 90))
    axes.spines[["top", "right", "left"]].set_visible(False)
    axes.tick_params(axis="y", length=0)
    _label(axes, rows)
    if not effects:
        say(axes, "no trick to compare")
    places = decimals([v for e in effects for v in (e.mean, e.low, e.high) if is_number(v)])
    for place, row in enumerate(rows):
        if isinstance(row, Effect):
            _draw(axes, row, -place, places)
    _explain(figure, [row.verdict for row in rows if isinstance(row, Effect)], len(effects))
    return figure


def _limits(effects: Sequence[Effect]) -> tuple[float, float]:
    values = [value for e in effects for value in (e.mean, e.low, e.high) if is_number(value)]
    return span([0.0, *values])


def _label(axes: Axes, rows: Sequence[Effect | str]) -> None:
    names = [shown(row if isinstance(row, str) else row.label, 36) for row in rows]
    axes.set_yticks([-place for place in range(len(rows))], names)
    for row, name in zip(rows, axes.get_yticklabels(), strict=True):
        if isinstance(row, str):
            name.set_fontweight("bold")


def _draw(axes: Axes, effect: Effect, place: float, places: int) -> None:
    marker, edge, face, _ = LOOKS[effect.verdict]
    if effect.low == effect.low and effect.high == effect.high:
        _draw_interval(axes, effect.low, effect.high, place, edge)
    if is_number(effect.mean):
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
        shown(_numbers(effect, places), 60),
        transform=axes.get_yaxis_transform(),
        va="center",
        color=GREY if effect.verdict in ("open", "too few", "no effect") else "black",
        fontsize="small",
    )
    axes.axhline(place - 0.5, color=FAINT, linewidth=0.3, zorder=0)


def _draw_interval(axes: Axes, low: float, high: float, place: float, colour: str) -> None:
    """Up to the axis' end, with an arrow, where it is infinite."""
    left, right = axes.get_xlim()
    ends = (low if is_number(low) else left, high if is_number(high) else right)
    axes.plot(ends, (place, place), color=colour, linewidth=2, solid_capstyle="butt", zorder=2)
    for value, end, arrow in zip((low, high), ends, "<>", strict=True):
        if not is_number(value):
            axes.plot(end, place, marker=arrow, color=colour, clip_on=False, linestyle="none")


def _numbers(effect: Effect, places: int) -> str:
    """`+0.40 (-0.10 to +0.90), 8 pairs`."""
    said = _signed(effect.mean, places) if is_number(effect.mean) else "not measured"
    if effect.low == effect.low and effect.high == effect.high:
        said += f" ({_signed(effect.low, places)} to {_signed(effect.high, places)})"
    return f"{said}, {effect.note}" if effect.note else said


def _signed(value: float, places: int) -> str:
    """Exactly zero has no sign."""
    if not is_number(value):
        return "+∞" if value > 0 else "-∞"
    if value == 0:
        return "0"
    return f"{value:+.{places}f}" if abs(value) < 1e6 else f"{value:+.3g}"


def _explain(figure: Figure, verdicts: Sequence[Verdict], number: int) -> None:
    """The marks that occur, and how many rows are left out."""
    handles = [
        Line2D([], [], color=edge, marker=marker, markerfacecolor=face, label=words)
        for verdict, (marker, edge, face, words) in LOOKS.items()
        if verdict in verdicts
    ]
    if number > MOST:
        handles.append(Line2D([], [], linestyle="none", label=f"{number - MOST} more left out"))
    if handles:
        figure.legend(
            handles=handles,
            loc="outside lower center",
            ncols=len(handles),
            frameon=False,
            fontsize="small",
        )
