"""What a report is made of: sections of paragraphs, tables and pictures.

A paragraph may hold `code` in backticks and **strong** words, and no other markup (markup.py);
titles, cells and what pictures show are plain text, whatever characters they hold.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

RowStyle = Literal["green", "red", "yellow"]


@dataclass(frozen=True)
class Table:
    """Rows of text. Raises ValueError if a row has not as many cells as there are columns."""

    columns: Sequence[str]
    rows: Sequence[Sequence[str]]
    num_left_aligned: int = 1
    """So many columns at the start are aligned left, the others right."""
    styles: Sequence[RowStyle | None] | None = None
    """One a row; what a colour means must be in the row's words, too."""
    csv_name: str | None = None
    """The CSV file's name without .csv, if there is to be one."""
    csv_rows: Sequence[Mapping[str, object]] | None = None
    """The rows as raw values, for the CSV file in place of what is shown."""

    def __post_init__(self) -> None:
        if not self.columns or any(len(row) != len(self.columns) for row in self.rows):
            raise ValueError(f"every row must have a cell for each of the columns {self.columns}")
        if self.styles is not None and len(self.styles) != len(self.rows):
            raise ValueError(f"{len(self.rows)} rows have {len(self.styles)} styles")


@dataclass(frozen=True)
class Image:
    file_name: str
    """A PNG file in the report's folder."""
    alt_text: str
    """What it shows, in words."""


Block = str | Table | Image
"""A str is a paragraph."""


@dataclass(frozen=True)
class Section:
    title: str
    blocks: Sequence[Block]


@dataclass(frozen=True)
class Document:
    title: str
    sections: Sequence[Section]
