"""The markup of paragraphs: `code` in backticks and **strong**, taken apart once for every form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from recipe.formatting import printable

CODE = re.compile(r"`([^`]+)`")
MARKED = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|(?<!\w)\*\*(?=[^\s*])(?P<strong>(?:`[^`]+`|[^`*])+)(?<!\s)\*\*(?!\w)"
)


class Piece(NamedTuple):
    kind: Literal["text", "code", "strong", "end"]
    """`strong` begins what `end` ends; both have no text."""
    text: str = ""


def code(name: object) -> str:
    """A name from anyone, as code in a paragraph; a backtick in it becomes an apostrophe."""
    return f"`{printable(str(name)).replace('`', chr(39)) or ' '}`"


def pieces(paragraph: str) -> Iterator[Piece]:
    """A paragraph's pieces in order; what a terminal would obey is escaped.

    Marks that aren't closed are text.
    """
    paragraph = printable(paragraph)
    end = 0
    for found in MARKED.finditer(paragraph):
        yield from _text(paragraph[end : found.start()])
        if found["code"] is not None:
            yield Piece("code", found["code"])
        else:
            yield Piece("strong")
            yield from _codes(found["strong"])
            yield Piece("end")
        end = found.end()
    yield from _text(paragraph[end:])


def _codes(words: str) -> Iterator[Piece]:
    for place, words_or_code in enumerate(CODE.split(words)):
        if place % 2:
            yield Piece("code", words_or_code)
        else:
            yield from _text(words_or_code)


def _text(words: str) -> Iterator[Piece]:
    if words:
        yield Piece("text", words)
