"""A report as a self-contained HTML page, without scripts."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Callable
from pathlib import Path

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markdown_it import MarkdownIt
from markupsafe import Markup

from recipe.compare.report.csv_tables import render_csv
from recipe.compare.report.document import Block, Document, Image, Table
from recipe.compare.report.markdown import render_paragraph, render_table
from recipe.formatting import escape_unprintable

TEMPLATE_DIR = Path(__file__).parent

MARKDOWN = MarkdownIt("commonmark", {"html": False}).enable("table")


def render_html(document: Document, folder: Path) -> str:
    """The page with the images of `folder` and the CSV files embedded. Raises OSError."""
    environment = Environment(
        loader=FileSystemLoader(TEMPLATE_DIR),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    filters: dict[str, Callable[..., object]] = {
        "escape_unprintable": escape_unprintable,
        "kind": _get_block_kind,
        "paragraph": lambda text: Markup(MARKDOWN.render(render_paragraph(text))),
        "table": _render_table,
        "image_url": lambda image: _to_data_url(
            (folder / image.file_name).read_bytes(), "image/png"
        ),
        "csv_url": lambda table: _to_data_url(render_csv(table).encode(), "text/csv"),
    }
    environment.filters |= filters
    style = (TEMPLATE_DIR / "page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    return environment.get_template("page.html").render(
        document=document, style=Markup(style), digest=digest
    )


def _render_table(table: Table) -> Markup:
    """Replaces inline styles, which the page's security policy forbids, by classes."""
    tokens = MARKDOWN.parse(render_table(table))
    styles = iter([None, *(table.styles or [None] * len(table.rows))])  # the header has none
    for token in tokens:
        if token.type == "tr_open" and (style := next(styles)):
            token.attrSet("class", style)
        if token.type == "th_open":
            token.attrSet("scope", "col")
        if token.attrs.pop("style", None):
            token.attrSet("class", "right")
    return Markup(MARKDOWN.renderer.render(tokens, MARKDOWN.options, {}))


def _get_block_kind(block: Block) -> str:
    return "table" if isinstance(block, Table) else "image" if isinstance(block, Image) else "text"


def _to_data_url(content: bytes, media_type: str) -> str:
    return f"data:{media_type};base64,{base64.b64encode(content).decode()}"
