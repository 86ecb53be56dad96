"""All cards as one page of Markdown, docs/tricks.md."""

from __future__ import annotations

from collections.abc import Iterator

from recipe.cli.trick_card import TrickCard, read_cards
from recipe.config import option_files

HEADER = """\
# Every option of every group

This page is made of the option files in `conf/` and of the docstrings of what they call; a test
holds it to them. `python -m recipe tricks` lists the same in the terminal, your own options among
them, and `python -m recipe tricks clip=agc` shows one card.
"""


def render_markdown() -> str:
    defaults = option_files.get_default_options()
    return "\n".join([HEADER, *_iter_lines(read_cards(), defaults)]).rstrip("\n") + "\n"


def _iter_lines(found: list[TrickCard], defaults: dict[str, str]) -> Iterator[str]:
    for group in dict.fromkeys(card.group for card in found):
        yield f"## {group}\n"
        for card in (card for card in found if card.group == group):
            mark = " (the default)" if defaults[group] == card.option else ""
            yield f"### `{card.label}`{mark}\n"
            yield f"{card.summary}\n"
            yield from (f"{text}\n" for text in card.paragraphs)
            yield from (f"- **{name}**: {text}" for name, text in card.fields.items())
            if card.fields:
                yield ""
            if card.settings:
                yield "| setting | value | what it does |\n|---|---|---|"
            for setting in card.settings:
                cells = (f"`{setting.key}`", f"`{setting.value}`", setting.description)
                yield f"| {' | '.join(cell.replace('|', '&#124;') for cell in cells)} |"
            yield ""
