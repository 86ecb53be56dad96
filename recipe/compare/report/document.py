"""A report: in the terminal, as Markdown, as one HTML page, and its tables as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recipe import atomic_write
from recipe.compare.report.content import Document, Image, Section, Table
from recipe.compare.report.csv_tables import render_csv
from recipe.compare.report.html import render_html
from recipe.compare.report.markdown import render_markdown
from recipe.compare.report.terminal import print_document

__all__ = [
    "Document",
    "Image",
    "Section",
    "Table",
    "print_document",
    "render_csv",
    "render_html",
    "render_markdown",
    "write_document",
]


REPORT_FILES = ("report.md", "report.html", "forest.png", "pareto.png", "curves.png")
"""Of files that a report has, beside those of its tables."""


def write_document(document: Document, folder: Path, tables: Sequence[str] = ()) -> list[Path]:
    """report.md, report.html and a CSV file for every table that has a name, beside the pictures;
    the report's files.

    An earlier report's files that this one doesn't have are removed: `tables` are the names that
    its tables may have. Raises OSError if a file can't be written, or a picture can't be read.
    """
    files = {"report.md": render_markdown(document), "report.html": render_html(document, folder)}
    contents = [one for section in document.sections for one in section.blocks]
    pictures = [one.file_name for one in contents if isinstance(one, Image)]
    for one in contents:
        if isinstance(one, Table) and one.csv_name:
            files[f"{one.csv_name}.csv"] = render_csv(one)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        atomic_write.write_file(folder / name, text.encode())
    names = [*pictures, *files]
    for name in {*REPORT_FILES, *(f"{table}.csv" for table in tables)}.difference(names):
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in sorted(names)]
