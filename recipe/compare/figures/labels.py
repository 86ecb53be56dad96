"""Labels next to the points of a plot that overlap neither each other nor any point."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.patheffects import withStroke
from matplotlib.transforms import Bbox
from numpy.typing import NDArray

from recipe.compare.figures.style import DPI, GREY

Pixels = NDArray[np.float64]

# distances from a point to its label, in points (1/72 inch); labels beyond the second have a line
DISTANCES = [7.0 + 11.0 * ring for ring in range(9)]
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
    """Draws each label at the first free position around its point, in the order given.

    Labels never cover points. They cover lines, given as points sampled from them, only if nothing
    closer is free. A label without a free position is left out.
    """
    figure = axes.figure.get_figure(root=True)
    assert figure is not None
    figure.set_dpi(DPI)
    renderer = FigureCanvasAgg(figure).get_renderer()  # type: ignore[no-untyped-call]
    figure.draw_without_rendering()  # computes the position of the axes
    inside = axes.get_window_extent(renderer)
    data = axes.transData
    spots = data.transform(np.asarray(points))
    everything = data.transform(np.asarray([*points, *lines]))
    near = [(obstacles, ring) for obstacles in (everything, spots) for ring in (0, 1)]
    far = [(some, ring) for ring in range(2, len(DISTANCES)) for some in (everything, spots)]
    taken: list[Bbox] = []
    for label in labels:
        text = axes.text(
            label.x,
            label.y,
            label.text,
            va="bottom",
            fontsize="small",
            fontweight="bold" if label.is_bold else "normal",
            zorder=5,
            path_effects=[withStroke(linewidth=2, foreground="white", alpha=0.8)],
        )
        text.set_in_layout(False)
        size = text.get_window_extent(renderer)
        spot = data.transform((label.x, label.y))
        for obstacles, ring in near + far:
            box = _find_free_box(spot, size, DISTANCES[ring], obstacles, inside, taken)
            if box is not None:
                text.set_position(tuple(data.inverted().transform((box.x0, box.y0))))
                taken.append(box)
                if ring > 1:
                    end = data.inverted().transform(np.clip(spot, box.min, box.max))
                    [line] = axes.plot(
                        (label.x, end[0]), (label.y, end[1]), color=GREY, linewidth=0.6, zorder=2
                    )
                    line.set_in_layout(False)
                break
        else:
            text.remove()


def _find_free_box(
    spot: Pixels, size: Bbox, distance: float, obstacles: Pixels, inside: Bbox, taken: list[Bbox]
) -> Bbox | None:
    for right, up in DIRECTIONS:
        reach = distance * DPI / 72 * (0.7 if right and up else 1)
        x = spot[0] + right * reach - size.width * (1 - right) / 2
        y = spot[1] + up * reach - size.height * (1 - up) / 2
        box = Bbox.from_bounds(x, y, size.width, size.height)
        if (
            inside.count_contains(box.corners()) == 4
            and not any(box.overlaps(other) for other in taken)
            and not box.padded(4).count_contains(obstacles)
        ):
            return box
    return None
