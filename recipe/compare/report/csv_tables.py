"""Tables as CSV."""

from __future__ import annotations

import csv
import io
import re
from collections.abc import Iterable

from recipe.compare.report.document import Table
from recipe.formatting import escape_unprintable

FORMULA_PATTERN = re.compile(r"\s*(?:[=@]|[+-].*(?:[A-Za-z]\(|[|!]))")


def render_csv(table: Table) -> str:
    """The raw values of a table if it has them, else its cells."""
    if table.csv_rows is None:
        return format_csv([table.columns, *table.rows])
    keys = list(dict.fromkeys(key for row in table.csv_rows for key in row))
    return format_csv([keys, *([row.get(key) for key in keys] for row in table.csv_rows)])


def format_csv(rows: Iterable[Iterable[object]]) -> str:
    """The rows as CSV with lines ended by a newline; None is an empty field.

    A text that a spreadsheet would evaluate as a formula is prefixed by an apostrophe.
    """
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerows([_escape_formula(cell) for cell in row] for row in rows)
    return text.getvalue()


def _escape_formula(value: object) -> object:
    if not isinstance(value, str):
        return value
    text = escape_unprintable(value)
    return f"'{text}" if FORMULA_PATTERN.match(text) else text
