"""A table as CSV."""

from __future__ import annotations

import io
import re
from csv import writer

from recipe.compare.content import Table
from recipe.wording import printable

FORMULA = re.compile(r"[=@]|[+-].*(?:[A-Za-z]\(|[|!])")
"""What a spreadsheet would run as a formula: a name could be one."""


def csv(table: Table) -> str:
    """The raw values where the table has them, else its cells; without a value, an empty field.

    A text that a spreadsheet would run gets an apostrophe in front.
    """
    text = io.StringIO()
    lines = writer(text, lineterminator="\n")
    if table.data is None:
        lines.writerow([_field(column) for column in table.columns])
        lines.writerows([_field(cell) for cell in row] for row in table.rows)
    else:
        keys = list(dict.fromkeys(key for row in table.data for key in row))
        lines.writerow([_field(key) for key in keys])
        lines.writerows([_field(row.get(key)) for key in keys] for row in table.data)
    return text.getvalue()


def _field(value: object) -> object:
    if not isinstance(value, str):
        return value
    shown = printable(value)
    return f"'{shown}" if FORMULA.match(shown) else shown
