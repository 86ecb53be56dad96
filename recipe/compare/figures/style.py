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
from recipe.formatting import printable

BLUE, ORANGE, GREEN, PINK, SKY = "#0072B2", "#D55E00", "#009E73", "#CC79A7", "#56B4E9"
"""Of Okabe and Ito's palette, as are the first of `LINES`."""
LINES = (BLUE, ORANGE, GREEN, PINK, SKY, "#E69F00", "#000000", "#882255", "#999933", "#332288")
GREY, FAINT = "#595959", "#B8B8B8"
DPI = 150
LINE = 84
"""Characters of a title that have a place beside each other."""
LARGEST = 1e100
"""A number beyond it is infinite to a picture."""

STYLE: list[str | dict[str, bool]] = ["default", {"axes.unicode_minus": False}]

Drawn = ParamSpec("Drawn")


@contextmanager
def _house_style() -> Iterator[None]:
    with matplotlib.style.context(STYLE), warnings.catch_warnings():
        warnings.filterwarnings("ignore", "Glyph .* missing from font")  # drawn as boxes
        yield


def in_house_style(draw: Callable[Drawn, Figure]) -> Callable[Drawn, Figure]:
    """Draws alike whatever the user's matplotlibrc says."""

    @wraps(draw)
    def drawn(*arguments: Drawn.args, **settings: Drawn.kwargs) -> Figure:
        with _house_style():
            return draw(*arguments, **settings)

    return drawn


def save(figure: Figure, path: Path) -> Path:
    """The figure as a PNG file, the same bytes whenever it is drawn.

    Raises OSError if it can't be written.
    """
    content = io.BytesIO()
    FigureCanvasAgg(figure)
    with _house_style():
        figure.savefig(content, dpi=DPI, metadata={"Software": None})
    atomic_write.write(path, content.getvalue())
    return path


def shown(text: str, most: int = 40) -> str:
    """A text of anyone's as matplotlib shows it plainly: cut in the middle, without mathematics."""
    plain = printable(text)
    if len(plain) > most:
        tail = (most - 1) // 2
        plain = f"{plain[: most - 1 - tail]}…{plain[-tail:]}"
    return plain.replace("$", r"\$")


def is_number(value: float) -> bool:
    """Whether a picture has a place for it."""
    return abs(value) < LARGEST


def span(values: list[float], margin: float = 0.05) -> tuple[float, float]:
    """The limits of an axis that shows all of the values, and some room beside them."""
    low, high = min(values, default=0.0), max(values, default=0.0)
    room = (high - low) * margin or abs(high) * margin or 1.0
    return low - room, high + room


def say(axes: Axes, text: str) -> None:
    """A line of words where there is nothing to draw."""
    axes.text(0.5, 0.5, text, transform=axes.transAxes, ha="center", va="center", color=GREY)


def decimals(values: list[float]) -> int:
    """How many decimals show the largest of the values with two or three digits."""
    largest = max((abs(value) for value in values), default=0.0)
    if largest == 0:
        return 2
    exponent = math.floor(math.log10(largest))
    return min(max(2 - exponent if exponent >= 0 else 1 - exponent, 0), 9)


def head(figure: Figure, title: str) -> None:
    """The picture's title, at its left edge."""
    lines = textwrap.wrap(shown(title, 2 * LINE), LINE)
    figure.suptitle("\n".join(lines), x=0.01, ha="left", fontsize="medium")


def without_frame(axes: Axes) -> None:
    axes.spines[["top", "right"]].set_visible(False)
