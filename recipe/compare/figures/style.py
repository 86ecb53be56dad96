"""The style of all figures, and the PNG files they are saved as."""

from __future__ import annotations

import io
import math
import textwrap
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import matplotlib.style
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from recipe import atomic_write
from recipe.formatting import escape_unprintable

# the palette of Okabe and Ito, for colour-blind readers
BLUE, ORANGE, GREEN, PINK, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
LINE_COLORS = (
    BLUE, ORANGE, GREEN, PINK, SKY, "#E69F00", "#000000", "#882255", "#999933", "#332288",
)  # fmt: skip
GREY, LIGHT_GREY = "#595959", "#B8B8B8"
DPI = 150
TITLE_LINE_LENGTH = 84
MAX_PLOTTABLE = 1e100


@contextmanager
def report_style() -> Iterator[None]:
    """Also a decorator; replaces the settings of the user's matplotlibrc."""
    style: list[str | dict[str, bool]] = ["default", {"axes.unicode_minus": False}]
    with matplotlib.style.context(style), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as boxes
        yield


def save_figure(figure: Figure, path: Path) -> Path:
    """Writes a PNG file whose bytes depend on the figure alone. Raises OSError."""
    content = io.BytesIO()
    FigureCanvasAgg(figure)
    with report_style():
        figure.savefig(content, dpi=DPI, metadata={"Software": None})
    atomic_write.write_file(path, content.getvalue())
    return path


def format_label(text: str, max_length: int) -> str:
    """Shortens a text in its middle and escapes it, so that matplotlib draws it literally."""
    plain = escape_unprintable(text)
    if len(plain) > max_length:
        tail = (max_length - 1) // 2
        plain = f"{plain[: max_length - 1 - tail]}…{plain[-tail:]}"
    return plain.replace("$", r"\$")


def is_plottable(value: float) -> bool:
    """Whether a value is finite and small enough for an axis."""
    return abs(value) < MAX_PLOTTABLE


def compute_axis_limits(values: list[float], margin: float = 0.05) -> tuple[float, float]:
    """The limits of an axis that shows all values, with a margin relative to their range."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    padding = (high - low) * margin or abs(high) * margin or 1.0
    return low - padding, high + padding


def draw_message(axes: Axes, text: str) -> None:
    """Writes a message in the middle of empty axes."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def count_decimals(values: list[float]) -> int:
    """The number of decimals that shows the largest value with two or three digits."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0:
        return 2
    exponent = math.floor(math.log10(largest))
    return min(max(2 - exponent if exponent >= 0 else 1 - exponent, 0), 9)


def set_title(figure: Figure, title: str) -> None:
    lines = textwrap.wrap(format_label(title, 2 * TITLE_LINE_LENGTH), TITLE_LINE_LENGTH)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize="medium")


def hide_spines(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
