"""A report as one HTML page that needs nothing else: no file, no network, no script."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup

from recipe.compare.report.content import Content, Document, Picture, Table
from recipe.compare.report.csv_tables import csv
from recipe.compare.report.markup import pieces
from recipe.formatting import printable

HERE = Path(__file__).parent


def html(document: Document, folder: Path) -> str:
    """The page, with the pictures that lie in `folder` and the tables' CSV files inside it.

    Raises OSError if a picture can't be read.
    """
    made = Environment(
        loader=FileSystemLoader(HERE),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "shown": printable,
        "pieces": pieces,
        "kind": _kind,
        "picture": lambda one: _inside((folder / one.file).read_bytes(), "image/png"),
        "csv": lambda one: _inside(csv(one).encode(), "text/csv"),
    }
    made.filters |= filters
    style = (HERE / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return made.get_template("page.html").render(
        document=document, style=Markup(style), digest=digest
    )


def _kind(content: Content) -> str:
    if isinstance(content, str):
        return "paragraph"
    return {Table: "table", Picture: "picture"}[type(content)]


def _inside(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
