"""The files of a report: Markdown, an HTML page, figures, and its tables as CSV."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from recipe import atomic_write
from recipe.compare.report.csv_tables import render_csv
from recipe.compare.report.document import Document, Image, Table
from recipe.compare.report.html import render_html
from recipe.compare.report.markdown import render_markdown

REPORT_FILES = ("report.md", "report.html", "forest.png", "pareto.png", "curves.png")


def write_document(document: Document, folder: Path, tables: Sequence[str] = ()) -> list[Path]:
    """Writes report.md, report.html and a CSV file for every table with a `csv_name`, next to the
    images; returns all files of the report.

    Files of an earlier report that this one doesn't have are removed; `tables` are the possible
    names of tables. Raises OSError.
    """
    files = {"report.md": render_markdown(document), "report.html": render_html(document, folder)}
    blocks = [block for section in document.sections for block in section.blocks]
    for block in blocks:
        if isinstance(block, Table) and block.csv_name:
            files[f"{block.csv_name}.csv"] = render_csv(block)
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in files.items():
        atomic_write.write_file(folder / name, text.encode())
    names = [*files, *(block.file_name for block in blocks if isinstance(block, Image))]
    for name in {*REPORT_FILES, *(f"{table}.csv" for table in tables)}.difference(names):
        (folder / name).unlink(missing_ok=True)
    return [folder / name for name in sorted(names)]
