"""A report: in the terminal, as Markdown, as one HTML page, and its tables as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recipe import atomic_write
from recipe.compare.report.content import Document, Picture, Section, Table
from recipe.compare.report.csv_tables import csv
from recipe.compare.report.html import html
from recipe.compare.report.markdown import markdown
from recipe.compare.report.markup import code
from recipe.compare.report.terminal import show

__all__ = [
    "Document",
    "Picture",
    "Section",
    "Table",
    "code",
    "csv",
    "html",
    "markdown",
    "show",
    "write",
]


NAMES = ("report.md", "report.html", "forest.png", "pareto.png", "curves.png")
"""Of files that a report has, beside those of its tables."""


def write(document: Document, folder: Path, tables: Sequence[str] = ()) -> list[Path]:
    """report.md, report.html and a CSV file for every table that has a name, beside the pictures;
    the report's files.

    An earlier report's files that this one doesn't have are removed: `tables` are the names that
    its tables may have. Raises OSError if a file can't be written, or a picture can't be read.
    """
    files = {"report.md": markdown(document), "report.html": html(document, folder)}
    contents = [one for section in document.sections for one in section.content]
    pictures = [one.file for one in contents if isinstance(one, Picture)]
    for one in contents:
        if isinstance(one, Table) and one.name:
            files[f"{one.name}.csv"] = csv(one)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        atomic_write.write(folder / name, text.encode())
    names = [*pictures, *files]
    for name in {*NAMES, *(f"{table}.csv" for table in tables)}.difference(names):
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in sorted(names)]
