"""The document model of a report: sections of paragraphs, tables and images.

A paragraph may contain `code` in backticks and **strong** text, and no other markup. Titles, cells
and alternative texts are plain text with any characters.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

RowStyle = Literal["green", "red", "yellow"]


@dataclass(frozen=True)
class Table:
    """Rows of text. Raises ValueError if a row doesn't have one cell per column."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_left_aligned: int = 1
    """The number of leading columns that are left-aligned; the others are right-aligned."""
    styles: Sequence[RowStyle | None] | None = None
    """One per row; the row's text must also say what its colour means."""
    csv_name: str | None = None
    """The name of the CSV file, without .csv; None: there is none."""
    csv_rows: Sequence[Mapping[str, object]] | None = None
    """Raw values for the CSV file, which otherwise has the cells."""

    def __post_init__(self) -> None:
        if not self.columns or any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"every row must have a cell for each of the columns {self.columns}")
        if self.styles is not None and len(self.styles) != len(self.rows):
            raise ValueError(f"{len(self.rows)} rows have {len(self.styles)} styles")


@dataclass(frozen=True)
class Image:
    """A PNG file in the report's folder."""

    file_name: str
    alt_text: str


Block = str | Table | Image  # a str is a paragraph


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    title: str
    sections: Sequence[Section]
