"""A report: in the terminal, as Markdown, as one HTML page, and its tables as CSV."""

from __future__ import annotations

from pathlib import Path

from recipe import atomic
from recipe.compare.content import Document, Picture, Section, Table
from recipe.compare.markdown import markdown
from recipe.compare.markup import code
from recipe.compare.page import html
from recipe.compare.spreadsheet import csv
from recipe.compare.terminal import show

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


def write(document: Document, folder: Path) -> None:
    """report.md, report.html and a CSV file for every table that has a name, beside the pictures.

    Raises OSError if a file can't be written, or a picture can't be read.
    """
    files = {"report.md": markdown(document), "report.html": html(document, folder)}
    for one in (one for section in document.sections for one in section.content):
        if isinstance(one, Table) and one.name:
            files[f"{one.name}.csv"] = csv(one)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        atomic.write(folder / name, text.encode())
