"""How the report's pictures look: colours that colour-blind eyes tell apart, texts, files."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import wraps
from pathlib import Path
from typing import ParamSpec

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recipe import atomic_write
from recipe.formatting import escape_unprintable

BLUE, ORANGE, GREEN, PINK, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
"""Of Okabe and Ito's palette, as are the first of `LINES`."""
LINE_COLORS = (
    BLUE,
    ORANGE,
    GREEN,
    PINK,
    SKY,
    "#E69F00",
    "#000000",
    "#882255",
    "#999933",
    "#332288",
)
GREY, LIGHT_GREY = "#595959", "#B8B8B8"
DPI = 150
TITLE_LINE_LENGTH = 84
"""Characters of a title that have a place beside each other."""
MAX_PLOTTABLE = 1e100
"""A number beyond it is infinite to a picture."""

MATPLOTLIB_STYLE: list[str | dict[str, bool]] = ["default", {"axes.unicode_minus": False}]

PlotParams = ParamSpec("PlotParams")


@contextmanager
def _apply_style() -> Iterator[None]:
    with matplotlib.style.context(MATPLOTLIB_STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as boxes
        yield


def apply_report_style(draw: Callable[PlotParams, Figure]) -> Callable[PlotParams, Figure]:
    """Draws alike whatever the user's matplotlibrc says."""

    @wraps(draw)
    def wrapper(*arguments: PlotParams.args, **settings: PlotParams.kwargs) -> Figure:
        with _apply_style():
            return draw(*arguments, **settings)

    return wrapper


def save_figure(figure: Figure, path: Path) -> Path:
    """The figure as a PNG file, the same bytes whenever it is drawn.

    Raises OSError if it can't be written.
    """
    content = io.BytesIO()
    FigureCanvasAgg(figure)
    with _apply_style():
        figure.savefig(content, dpi=DPI, metadata={"Software": None})
    atomic_write.write_file(path, content.getvalue())
    return path


def format_label(text: str, most: int = 40) -> str:
    """A text of anyone's as matplotlib shows it plainly: cut in the middle, without mathematics."""
    plain = escape_unprintable(text)
    if len(plain) > most:
        tail = (most - 1) // 2
        plain = f"{plain[: most - 1 - tail]}…{plain[-tail:]}"
    return plain.replace("$", r"\$")


def is_plottable(value: float) -> bool:
    """Whether a picture has a place for it."""
    return abs(value) < MAX_PLOTTABLE


def compute_axis_limits(values: list[float], margin: float = 0.05) -> tuple[float, float]:
    """The limits of an axis that shows all of the values, and some room beside them."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    room = (high - low) * margin or abs(high) * margin or 1.0
    return low - room, high + room


def draw_message(axes: Axes, text: str) -> None:
    """A line of words where there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def count_decimals(values: list[float]) -> int:
    """How many decimals show the largest of the values with two or three digits."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0:
        return 2
    exponent = math.floor(math.log10(largest))
    return min(max(2 - exponent if exponent >= 0 else 1 - exponent, 0), 9)


def set_title(figure: Figure, title: str) -> None:
    """The picture's title, at its left edge."""
    lines = textwrap.wrap(format_label(title, 2 * TITLE_LINE_LENGTH), TITLE_LINE_LENGTH)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize="medium")


def hide_spines(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
