"""A report as Markdown with GitHub's tables. No name can become markup, nor end its cell."""

from __future__ import annotations

import re
from collections.abc import Iterator
from urllib.parse import quote

from recipe.compare.report.content import Document, Picture, Table
from recipe.compare.report.markup import pieces
from recipe.formatting import printable

# an underscore between letters is no emphasis anywhere, and names of settings are full of them
MARKS = re.compile(r"[\\`*\[\]~|#]|(?<![^\W_])_|_(?![^\W_])")
# as entities, for readers that don't know a backslash before these
ENTITIES = {"&": "&amp;", "<": "&lt;", ">": "&gt;", "$": "&#36;"}
ITEM = re.compile(r"^(?:[-+=]|\d{1,9}(?=[.)]))")


def markdown(document: Document) -> str:
    blocks = [f"# {text(document.title)}"]
    for section in document.sections:
        blocks.append(f"## {text(section.title)}")
        for one in section.content:
            if isinstance(one, Table):
                blocks.append("\n".join(_table(one)))
            elif isinstance(one, Picture):
                blocks.append(f"![{text(one.alt)}]({quote(one.file)})")
            else:
                blocks.append(_paragraph(one))
    return "\n\n".join(blocks) + "\n"


def text(plain: str) -> str:
    """Markdown that is shown as the plain text, in one line."""
    return _escaped(printable(plain).strip())


def _escaped(plain: str) -> str:
    escaped = MARKS.sub(r"\\\g<0>", plain)
    return "".join(ENTITIES.get(character, character) for character in escaped)


def _table(table: Table) -> Iterator[str]:
    lines = ["---"] * table.left + ["---:"] * (len(table.columns) - table.left)
    yield _row([text(column) for column in table.columns])
    yield _row(lines[: len(table.columns)])
    for row in table.rows:
        yield _row([text(cell) for cell in row])


def _row(cells: list[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _paragraph(paragraph: str) -> str:
    written = []
    for kind, words in pieces(printable(paragraph).strip()):
        if kind == "text":
            written.append(_escaped(words))
        else:
            written.append(f"`{words}`" if kind == "code" else "**")
    return _not_an_item("".join(written))


def _not_an_item(line: str) -> str:
    """A paragraph that begins as a list, a line or a heading would, but is none."""
    found = ITEM.match(line)
    if not found:
        return line
    mark = found[0]
    return f"{mark}\\{line[len(mark) :]}" if mark.isdigit() else f"\\{line}"
