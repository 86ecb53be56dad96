"""A report printed in a terminal, without its images."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from rich import table as rich_table
from rich.console import Console
from rich.markdown import Markdown
from rich.text import Text

from recipe.compare.report.document import Document, Image, Table
from recipe.compare.report.markdown import render_paragraph
from recipe.formatting import escape_unprintable, pluralize

MAX_TABLE_ROWS = 40


def print_document(document: Document, console: Console) -> None:
    """Prints a report; control characters in its texts are escaped."""
    console.print(Text(escape_unprintable(document.title), style="bold"), soft_wrap=True)
    for section in document.sections:
        console.print()
        console.print(Text(escape_unprintable(section.title), style="bold"), soft_wrap=True)
        blocks = [block for block in section.blocks if not isinstance(block, Image)]
        for before, block in zip([None, *blocks], blocks, strict=False):
            if before is not None and (isinstance(before, Table) or isinstance(block, Table)):
                console.print()
            if isinstance(block, Table):
                _print_table(block, console)
            else:
                markdown = Markdown(render_paragraph(block), justify="default", hyperlinks=False)
                console.print(markdown, soft_wrap=True)


def _print_table(table: Table, console: Console) -> None:
    printed = rich_table.Table(box=None, pad_edge=False)
    for index, column in enumerate(table.columns):
        left = index < table.num_left_aligned
        printed.add_column(
            Text(escape_unprintable(column)),
            justify="left" if left else "right",
            overflow="fold",
            no_wrap=not left,
        )
    styles = table.styles or [None] * len(table.rows)
    for row, style in list(zip(table.rows, styles, strict=True))[:MAX_TABLE_ROWS]:
        printed.add_row(*(Text(escape_unprintable(cell)) for cell in row), style=style)
    with _disable_wrapping(console):
        console.print(printed)
    if len(table.rows) > MAX_TABLE_ROWS:
        where = f" in {escape_unprintable(table.csv_name)}.csv" if table.csv_name else ""
        console.print(
            f"and {pluralize(len(table.rows) - MAX_TABLE_ROWS, 'more row')}{where}", soft_wrap=True
        )


@contextmanager
def _disable_wrapping(console: Console) -> Iterator[None]:
    """Prints rows on one line each if the output is not a terminal."""
    width = console.width
    if not console.is_terminal:
        console.width = 10_000
    try:
        yield
    finally:
        console.width = width
