"""The markup of paragraphs: `code` in backticks and **strong**, taken apart once for every form."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Literal, NamedTuple

from recipe.formatting import escape_unprintable

CODE_PATTERN = re.compile(r"`([^`]+)`")
MARKUP_PATTERN = re.compile(
    r"`(?P<code>[^`]+)`"
    r"|(?<!\w)\*\*(?=[^\s*])(?P<strong>(?:`[^`]+`|[^`*])+)(?<!\s)\*\*(?!\w)"
)


class Token(NamedTuple):
    kind: Literal["text", "code", "strong", "end"]
    """`strong` begins what `end` ends; both have no text."""
    text: str = ""


def iter_tokens(paragraph: str) -> Iterator[Token]:
    """A paragraph's pieces in order; what a terminal would obey is escaped.

    Marks that aren't closed are text.
    """
    paragraph = escape_unprintable(paragraph)
    end = 0
    for found in MARKUP_PATTERN.finditer(paragraph):
        yield from _iter_text_tokens(paragraph[end : found.start()])
        if found["code"] is not None:
            yield Token("code", found["code"])
        else:
            yield Token("strong")
            yield from _iter_code_tokens(found["strong"])
            yield Token("end")
        end = found.end()
    yield from _iter_text_tokens(paragraph[end:])


def _iter_code_tokens(words: str) -> Iterator[Token]:
    for place, words_or_code in enumerate(CODE_PATTERN.split(words)):
        if place % 2:
            yield Token("code", words_or_code)
        else:
            yield from _iter_text_tokens(words_or_code)


def _iter_text_tokens(words: str) -> Iterator[Token]:
    if words:
        yield Token("text", words)
