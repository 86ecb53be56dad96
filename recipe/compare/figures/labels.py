"""Names beside the points of a picture, so that they cover neither each other nor a point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke
from matplotlib.text import Text
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from recipe.compare.figures.style import DPI, GREY

Pixels = NDArray[np.float64]

LABEL_DISTANCE, DISTANCE_STEP, NUM_DISTANCES = 7.0, 11.0, 9
"""Points (1/72 inch) from the spot to its name: the nearest, what is tried next, how often."""
DIRECTIONS = ((1, 0), (-1, 0), (0, 1), (0, -1), (1, 1), (1, -1), (-1, 1), (-1, -1))


@dataclass(frozen=True)
class PointLabel:
    text: str
    x: float
    y: float
    is_bold: bool = False


def place_labels(
    axes: Axes,
    labels: Sequence[PointLabel],
    points: Sequence[tuple[float, float]],
    lines: Sequence[tuple[float, float]] = (),
) -> None:
    """Each label at the first free place around its point; the first labels choose first.

    Points are never covered, lines (given as places on them) where there is no better place. A
    label that stands further off has a line to its point; without any place it is left out.
    """
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    figure.set_dpi(DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()  # the axes' place is known only now
    inside = axes.get_window_extent(renderer)
    spots = axes.transData.transform(np.asarray(points))
    everything = axes.transData.transform(np.asarray([*points, *lines]))
    taken: list[Bbox] = []
    for label in labels:
        text = _draw_text(axes, label, (label.x, label.y))
        size = text.get_window_extent(renderer)
        text.remove()
        spot = axes.transData.transform((label.x, label.y))
        near = [(everything, 0), (everything, 1), (spots, 0), (spots, 1)]
        far = [(some, ring) for ring in range(2, NUM_DISTANCES) for some in (everything, spots)]
        for covered, ring in near + far:
            found = _find_free_box(spot, size, ring, covered, inside, taken)
            if found is not None:
                _draw_label(axes, label, found, spot, far=ring > 1)
                taken.append(found)
                break


def _find_free_box(
    spot: Pixels, size: Bbox, ring: int, covered: Pixels, inside: Bbox, taken: Sequence[Bbox]
) -> Bbox | None:
    away = (LABEL_DISTANCE + DISTANCE_STEP * ring) * DPI / 72
    for right, up in DIRECTIONS:
        reach = away if not (right and up) else away * 0.7
        x = spot[0] + right * reach - size.width * (1 - right) / 2
        y = spot[1] + up * reach - size.height * (1 - up) / 2
        box = Bbox.from_bounds(x, y, size.width, size.height)
        if (
            box.x0 >= inside.x0
            and box.y0 >= inside.y0
            and box.x1 <= inside.x1
            and box.y1 <= inside.y1
            and not any(box.overlaps(other) for other in taken)
            and not box.padded(4).count_contains(covered)
        ):
            return box
    return None


def _draw_label(axes: Axes, label: PointLabel, box: Bbox, spot: Pixels, *, far: bool) -> None:
    back = axes.transData.inverted()
    _draw_text(axes, label, back.transform((box.x0, box.y0)))
    if far:
        near = np.clip(spot, (box.x0, box.y0), (box.x1, box.y1))
        x, y = back.transform(near)
        [line] = axes.plot((label.x, x), (label.y, y), color=GREY, linewidth=0.6, zorder=2)
        line.set_in_layout(False)


def _draw_text(axes: Axes, label: PointLabel, corner: Pixels | tuple[float, float]) -> Text:
    text = axes.text(
        float(corner[0]),
        float(corner[1]),
        label.text,
        va="bottom",
        fontsize="small",
        fontweight="bold" if label.is_bold else "normal",
        zorder=5,
        path_effects=[withStroke(linewidth=2, foreground="white", alpha=0.8)],
    )
    text.set_in_layout(False)
    return text
