"""A report in a terminal; its pictures are left out."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich import table as rich_table
from rich.console import Console
from rich.text import Text

from recipe.compare.report.content import Document, Picture, Table
from recipe.compare.report.markup import pieces
from recipe.formatting import counted, printable

MOST = 40
"""Rows of a table that are shown."""


def show(document: Document, console: Console) -> None:
    """Names reach the terminal as text: nothing in them is obeyed."""
    console.print(Text(printable(document.title), style="bold"), soft_wrap=True)
    for section in document.sections:
        console.print()
        console.print(Text(printable(section.title), style="bold"), soft_wrap=True)
        said = [one for one in section.content if not isinstance(one, Picture)]
        for before, one in zip([None, *said], said, strict=False):
            if before is not None and (isinstance(before, Table) or isinstance(one, Table)):
                console.print()
            if isinstance(one, Table):
                _show_table(one, console)
            else:
                console.print(_paragraph(one), soft_wrap=True)


def _paragraph(paragraph: str) -> Text:
    text, style = Text(), ""
    for piece in pieces(paragraph):
        if piece.kind in ("strong", "end"):
            style = "bold" if piece.kind == "strong" else ""
        text.append(piece.text, style=style)
    return text


def _show_table(table: Table, console: Console) -> None:
    shown = rich_table.Table(box=None, pad_edge=False)
    for place, column in enumerate(table.columns):
        left = place < table.left
        shown.add_column(
            Text(printable(column)),
            justify="left" if left else "right",
            overflow="fold",
            no_wrap=not left,
        )
    styles = table.styles or [None] * len(table.rows)
    for row, style in list(zip(table.rows, styles, strict=True))[:MOST]:
        shown.add_row(*(Text(printable(cell)) for cell in row), style=style)
    with _a_line_a_row(console):
        console.print(shown)
    if len(table.rows) > MOST:
        where = f" in {printable(table.name)}.csv" if table.name else ""
        console.print(f"and {counted(len(table.rows) - MOST, 'more row')}{where}", soft_wrap=True)


@contextmanager
def _a_line_a_row(console: Console) -> Iterator[None]:
    """Where it is no terminal, rows are as long as they are."""
    width = console.width
    if not console.is_terminal:
        console.width = 10_000
    try:
        yield
    finally:
        console.width = width
