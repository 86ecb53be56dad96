"""`recipe tricks`: lists every option of every group, and prints the card of one."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.text import Text

from recipe.cli.trick_card import TrickCard, read_cards
from recipe.config import option_files
from recipe.config.groups import GROUPS
from recipe.config.verb_arguments import parse_key_values
from recipe.errors import SpecError
from recipe.runner.console import make_table
from recipe.store import run_dirs


def tricks(arguments: Sequence[str], console: Console) -> int:
    """Lists all options or those of a group (`clip`), or prints the card of an option (`clip=agc`)
    with its settings and the commands that compare runs with and without it.

    Raises SpecError for a group or an option that doesn't exist or can't be used.
    """
    requested = [argument for argument in arguments if _is_selector(argument)]
    rest = [argument for argument in arguments if argument not in requested]
    outputs = run_dirs.resolve_output_dir(
        parse_key_values("tricks", rest, {"output_dir": ""})["output_dir"]
    )
    chosen = (
        [card for one in requested for card in _select_cards(one)] if requested else read_cards()
    )
    if requested and all("=" in one for one in requested):
        for card in chosen:
            _print_card(card, outputs, console)
    else:
        _print_list(chosen, console)
    return 0


def _is_selector(argument: str) -> bool:
    group, equals, _ = argument.partition("=")
    return not argument.startswith("-") and (not equals or group in GROUPS)


def _select_cards(query: str) -> list[TrickCard]:
    group, equals, name = query.partition("=")
    if group not in GROUPS:
        hint = option_files.suggest_nearest(group, GROUPS) or f"; there are {', '.join(GROUPS)}"
        raise SpecError(f"tricks: {group}: no such group{hint}")
    found = [card for card in read_cards() if card.group == group]
    if equals and name not in [card.option for card in found]:
        known = [card.option for card in found]
        hint = option_files.suggest_nearest(name, known) or f"; there are {', '.join(known)}"
        raise SpecError(f"tricks: {query}: no such option{hint}")
    if equals and (problem := option_files.find_options(group)[name].problem):
        raise SpecError(f"tricks: {query} can't be used: {problem}")
    return [card for card in found if not equals or card.option == name]


def _print_list(chosen: Sequence[TrickCard], console: Console) -> None:
    defaults = option_files.get_default_options()
    for group in dict.fromkeys(card.group for card in chosen):
        table = make_table("", "", title=group)
        table.show_header, table.columns[1].overflow = False, "fold"
        for card in (card for card in chosen if card.group == group):
            mark = "*" if card.option == defaults[group] else " "
            table.add_row(Text(f"{mark} {card.option}"), Text(card.summary))
        console.print(table)
        console.print()
    console.print("* is the default. The card of one: python -m recipe tricks clip=agc")


def _print_card(card: TrickCard, outputs: Path, console: Console) -> None:
    console.print(Text(card.label, style="bold"))
    for text in (card.summary, *card.paragraphs):
        console.print(Text(text))
    for name, text in card.fields.items():
        console.print(Text.assemble((f"\n{name}  ", "bold"), text))
    if card.settings:
        console.print(Text("\nSettings", style="bold"))
    for setting in card.settings:
        console.print(Text(f"  {setting.key}={setting.value}"), soft_wrap=True)
        console.print(Padding(Text(setting.description), (0, 0, 0, 6)))
    if card.is_trick:
        console.print(Text("\nYour own runs", style="bold"))
        for purpose, command in (
            ("Record six pairs", f"ablate {card.label} 'seed=range(6)'"),
            ("Compare recorded runs", "compare all"),
        ):
            line = f"  {purpose}: {run_dirs.format_command(command, outputs)}"
            console.print(Text(line), soft_wrap=True)
    console.print()


PAGE_HEADER = """\
# Every option of every group

This page is made of the option files in `conf/` and of the docstrings of what they call; a test
holds it to them. `python -m recipe tricks` lists the same in the terminal, your own options among
them, and `python -m recipe tricks clip=agc` shows one card.
"""


def render_markdown() -> str:
    """All cards as one page of Markdown, docs/tricks.md."""
    defaults = option_files.get_default_options()
    return "\n".join([PAGE_HEADER, *_iter_page_lines(read_cards(), defaults)]).rstrip("\n") + "\n"


def _iter_page_lines(found: list[TrickCard], defaults: dict[str, str]) -> Iterator[str]:
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
