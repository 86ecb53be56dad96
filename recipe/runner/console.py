"""A rich console that escapes control characters in its output; tables and cautions."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from typing import IO, Any

from rich import console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
from rich.table import Table
from rich.text import Text

from recipe import output
from recipe.formatting import escape_unprintable_lines

NON_TERMINAL_WIDTH = 100


class Console(console.Console):
    """Prints to standard output, or to `file`, without rich's markup: names may contain
    [brackets]."""

    def __init__(
        self, file: IO[str] | None = None, *, width: int | None = None, quiet: bool = False
    ) -> None:
        super().__init__(
            file=file, width=width, quiet=quiet, highlight=False, markup=False,
            color_system=None if file else "auto",
        )  # fmt: skip
        if width is None and not self.is_terminal:
            self.width = NON_TERMINAL_WIDTH

    def print(self, *objects: Any, **options: Any) -> None:
        """Raises OutputError if the output can't be written."""
        with output.wrap_write_errors():
            super().print(*objects, **options)
        output.clear_current_task()

    def render_str(self, text: str, **options: Any) -> Text:
        return super().render_str(escape_unprintable_lines(text), **options)

    def render(
        self, renderable: RenderableType, options: ConsoleOptions | None = None
    ) -> Iterable[Segment]:
        for segment in super().render(renderable, options):
            if segment.control is None and not segment.text.isprintable():
                yield Segment(escape_unprintable_lines(segment.text), segment.style)
            else:
                yield segment


def print_caution(to: console.Console, caution: object) -> None:
    to.print(f"Caution {caution}", style="yellow", highlight=False, soft_wrap=True)


def print_upload_failure(to: console.Console, failure: str | None) -> None:
    if failure:
        message = f"MLflow did not take all of it ({failure}); the complete record is on disk."
        to.print(message, style="red", soft_wrap=True)


def make_table(*columns: str, title: str | None = None, right: Collection[str] = ()) -> Table:
    """A table without lines; the columns in `right` are aligned to the right."""
    table = Table(title=title, title_justify="left", box=None, pad_edge=False)
    for column in columns:
        table.add_column(column, justify="right" if column in right else "left")
    return table
