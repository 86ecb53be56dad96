"""A rich console that escapes control characters in its output."""

from __future__ import annotations

from collections.abc import Iterable
from typing import IO, Any

from rich import console
from rich.console import ConsoleOptions, RenderableType
from rich.segment import Segment
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
