"""A report as Markdown with GitHub's tables; HTML and terminal output are rendered from it.

All characters except the markup of paragraphs (document.py) are escaped.
"""

from __future__ import annotations

import re
from urllib.parse import quote

from recipe.compare.report.document import Document, Image, Table
from recipe.formatting import escape_unprintable

# an underscore between letters, as in names of settings, never starts emphasis
SPECIAL_CHARACTERS = re.compile(r"[\\`*\[\]~|#]|(?<![^\W_])_|_(?![^\W_])")
# some readers don't support a backslash before these
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
        for block in section.blocks:
            if isinstance(block, Table):
                blocks.append(render_table(block))
            elif isinstance(block, Image):
                blocks.append(f"![{escape_text(block.alt_text)}]({quote(block.file_name)})")
            else:
                blocks.append(render_paragraph(block))
    return "\n\n".join(blocks) + "\n"


def escape_text(plain: str) -> str:
    """Markdown that renders as the plain text, on one line."""
    return _escape_characters(escape_unprintable(plain).strip())


def _escape_characters(plain: str) -> str:
    escaped = SPECIAL_CHARACTERS.sub(r"\\\g<0>", plain)
    return "".join(ENTITIES.get(character, character) for character in escaped)


def render_table(table: Table) -> str:
    width, left = len(table.columns), table.num_left_aligned
    alignments = (["---"] * left + ["---:"] * width)[:width]
    header, *rows = ([escape_text(cell) for cell in row] for row in (table.columns, *table.rows))
    return "\n".join(f"| {' | '.join(cells)} |" for cells in (header, alignments, *rows))


def render_paragraph(paragraph: str) -> str:
    return _escape_list_marker(_escape_outside_code(escape_unprintable(paragraph).strip()))


def _escape_outside_code(text: str) -> str:
    def escape(found: re.Match[str]) -> str:
        if found["strong"]:
            return f"**{_escape_outside_code(found['strong'])}**"
        return found[0] if found["code"] else _escape_characters(found[0])

    return PARAGRAPH_TOKEN.sub(escape, text)


def _escape_list_marker(line: str) -> str:
    """Escapes the beginning of a paragraph that would make it a list, rule or heading."""
    found = LIST_MARKER.match(line)
    if not found:
        return line
    mark = found[0]
    return f"{mark}\\{line[len(mark) :]}" if mark.isdigit() else f"\\{line}"
