"""A report as Markdown with GitHub's tables. No name can become markup, nor end its cell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

from recipe.compare.report.content import Document, Image, Table
from recipe.compare.report.markup import iter_tokens
from recipe.formatting import escape_unprintable

# an underscore between letters is no emphasis anywhere, and names of settings are full of them
SPECIAL_CHARACTERS = re.compile(r"[\\`*\[\]~|#]|(?<![^\W_])_|_(?![^\W_])")
# as entities, for readers that don't know a backslash before these
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}
LIST_MARKER = re.compile(r"^(?:[-+=]|\d{1,9}(?=[.)]))")


def render_markdown(document: Document) -> str:
    blocks = [f"# {escape_text(document.title)}"]
    for section in document.sections:
        blocks.append(f"## {escape_text(section.title)}")
        for one in section.blocks:
            if isinstance(one, Table):
                blocks.append("\n".join(_render_table(one)))
            elif isinstance(one, Image):
                blocks.append(f"![{escape_text(one.alt_text)}]({quote(one.file_name)})")
            else:
                blocks.append(_render_paragraph(one))
    return "\n\n".join(blocks) + "\n"


def escape_text(plain: str) -> str:
    """Markdown that is shown as the plain text, in one line."""
    return _escape_characters(escape_unprintable(plain).strip())


def _escape_characters(plain: str) -> str:
    escaped = SPECIAL_CHARACTERS.sub(r"\\\g<0>", plain)
    return "".join(ENTITIES.get(character, character) for character in escaped)


def _render_table(table: Table) -> Iterator[str]:
    lines = ["---"] * table.num_left_aligned + ["---:"] * (
        len(table.columns) - table.num_left_aligned
    )
    yield _render_row([escape_text(column) for column in table.columns])
    yield _render_row(lines[: len(table.columns)])
    for row in table.rows:
        yield _render_row([escape_text(cell) for cell in row])


def _render_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _render_paragraph(paragraph: str) -> str:
    written = []
    for kind, words in iter_tokens(escape_unprintable(paragraph).strip()):
        if kind == "text":
            written.append(_escape_characters(words))
        else:
            written.append(f"`{words}`" if kind == "code" else "**")
    return _escape_list_marker("".join(written))


def _escape_list_marker(line: str) -> str:
    """A paragraph that begins as a list, a line or a heading would, but is none."""
    found = LIST_MARKER.match(line)
    if not found:
        return line
    mark = found[0]
    return f"{mark}\\{line[len(mark) :]}" if mark.isdigit() else f"\\{line}"
