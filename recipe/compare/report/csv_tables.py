"""Tables as CSV: all CSV that recipe writes is made here."""

from __future__ import annotations

import io
import re
from collections.abc import Iterable
from csv import writer

from recipe.compare.report.content import Table
from recipe.formatting import escape_unprintable

FORMULA_PATTERN = re.compile(r"\s*(?:[=@]|[+-].*(?:[A-Za-z]\(|[|!]))")
"""What a spreadsheet would run as a formula: a name could be one."""


def render_csv(table: Table) -> str:
    """The raw values where the table has them, else its cells; without a value, an empty field."""
    if table.csv_rows is None:
        return format_csv([table.columns, *table.rows])
    keys = list(dict.fromkeys(key for row in table.csv_rows for key in row))
    return format_csv([keys, *([row.get(key) for key in keys] for row in table.csv_rows)])


def format_csv(rows: Iterable[Iterable[object]]) -> str:
    """The rows as CSV, each ended by a newline; None is an empty field.

    A text that a spreadsheet would run gets an apostrophe in front.
    """
    text = io.StringIO()
    writer(text, lineterminator="\n").writerows(
        [_escape_formula(cell) for cell in row] for row in rows
    )
    return text.getvalue()


def _escape_formula(value: object) -> object:
    if not isinstance(value, str):
        return value
    shown = escape_unprintable(value)
    return f"'{shown}" if FORMULA_PATTERN.match(shown) else shown
