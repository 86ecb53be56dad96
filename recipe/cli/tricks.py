"""What tricks there are: every option of every group, and the card of each.

Everything on a card is written in one place: the option's YAML file (its first line, its settings
and what each does) and the docstrings of the module and the function that `_target_` names.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich.console import Console
from rich.padding import Padding
from rich.table import Table
from rich.text import Text

from recipe.cli.trick_card import TrickCard, read_cards
from recipe.config import option_files
from recipe.config.groups import GROUPS
from recipe.config.verb_arguments import parse_key_values
from recipe.errors import SpecError
from recipe.store import run_dirs


def tricks(arguments: Sequence[str], console: Console) -> int:
    """The verb: lists all options, those of a group (`clip`), or shows the card of one
    (`clip=agc`), its settings and the commands that compare runs with and without it.

    Raises SpecError for a group or an option that there isn't, and for one that can't be used.
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


def _select_cards(asked: str) -> list[TrickCard]:
    group, equals, name = asked.partition("=")
    if group not in GROUPS:
        hint = option_files.suggest_nearest(group, GROUPS) or f"; there are {', '.join(GROUPS)}"
        raise SpecError(f"tricks: {group}: no such group{hint}")
    found = [card for card in read_cards() if card.group == group]
    if equals and name not in [card.option for card in found]:
        known = [card.option for card in found]
        hint = option_files.suggest_nearest(name, known) or f"; there are {', '.join(known)}"
        raise SpecError(f"tricks: {asked}: no such option{hint}")
    if equals and (problem := option_files.find_options(group)[name].problem):
        raise SpecError(f"tricks: {asked} can't be used: {problem}")
    return [card for card in found if not equals or card.option == name]


def _print_list(chosen: Sequence[TrickCard], console: Console) -> None:
    defaults = option_files.get_default_options()
    for group in dict.fromkeys(card.group for card in chosen):
        table = Table(
            title=group, title_justify="left", box=None, show_header=False, pad_edge=False
        )
        table.add_column()
        table.add_column(overflow="fold")
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
