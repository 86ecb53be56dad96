"""A report as Markdown with GitHub's tables; the page and the terminal output are rendered from it.

Paragraphs may hold `code` in backticks and **strong** words; all other characters are escaped, so
that no name can become markup or end its cell.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

from recipe.compare.report.content import Document, Image, Table
from recipe.formatting import escape_unprintable

# an underscore between letters is no emphasis anywhere, and names of settings are full of them
SPECIAL_CHARACTERS = re.compile(r"[\\`*\[\]~|#]|(?<![^\W_])_|_(?![^\W_])")
# as entities, for readers that don't know a backslash before these
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}
PARAGRAPH_TOKEN = re.compile(
    r"(?P<code>`[^`]+`)"
    r"|(?<!\w)\*\*(?=[^\s*])(?P<strong>(?:`[^`]+`|[^`*])+)(?<!\s)\*\*(?!\w)"
    rf"|{SPECIAL_CHARACTERS.pattern}|[&<>$]"
)
LIST_MARKER = re.compile(r"^(?:[-+=]|\d{1,9}(?=[.)]))")


def render_markdown(document: Document) -> str:
    blocks = [f"# {escape_text(document.title)}"]
    for section in document.sections:
        blocks.append(f"## {escape_text(section.title)}")
        for one in section.blocks:
            if isinstance(one, Table):
                blocks.append(render_table(one))
            elif isinstance(one, Image):
                blocks.append(f"![{escape_text(one.alt_text)}]({quote(one.file_name)})")
            else:
                blocks.append(render_paragraph(one))
    return "\n\n".join(blocks) + "\n"


def escape_text(plain: str) -> str:
    """Markdown that is shown as the plain text, in one line."""
    return _escape_characters(escape_unprintable(plain).strip())


def _escape_characters(plain: str) -> str:
    escaped = SPECIAL_CHARACTERS.sub(r"\\\g<0>", plain)
    return "".join(ENTITIES.get(character, character) for character in escaped)


def render_table(table: Table) -> str:
    return "\n".join(_iter_table_lines(table))


def _iter_table_lines(table: Table) -> Iterator[str]:
    lines = ["---"] * table.num_left_aligned + ["---:"] * (
        len(table.columns) - table.num_left_aligned
    )
    yield _render_row([escape_text(column) for column in table.columns])
    yield _render_row(lines[: len(table.columns)])
    for row in table.rows:
        yield _render_row([escape_text(cell) for cell in row])


def _render_row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def render_paragraph(paragraph: str) -> str:
    return _escape_list_marker(_escape_outside_code(escape_unprintable(paragraph).strip()))


def _escape_outside_code(words: str) -> str:
    def escape(found: re.Match[str]) -> str:
        if found["strong"]:
            return f"**{_escape_outside_code(found['strong'])}**"
        return found[0] if found["code"] else _escape_characters(found[0])

    return PARAGRAPH_TOKEN.sub(escape, words)


def _escape_list_marker(line: str) -> str:
    """A paragraph that begins as a list, a line or a heading would, but is none."""
    found = LIST_MARKER.match(line)
    if not found:
        return line
    mark = found[0]
    return f"{mark}\\{line[len(mark) :]}" if mark.isdigit() else f"\\{line}"
