"""How long one waits before anything runs, against template.py, which imports torch and MLflow
first, as scripts do."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path

from duels import turns
from duels.results import row
from duels.single import Rows
from duels.sweeps import TEMPLATE
from duels.turns import Took, in_turn

Words = tuple[str, ...]
Command = tuple[str, Words, str, Words, int, int]

COMMANDS: tuple[Command, ...] = (
    ("`--help`", ("--help",), "its `--help`", ("--help",), 0, 0),
    ("composing (`--cfg job`)", ("--cfg", "job"), "its `--cfg job`", ("--cfg", "job"), 0, 0),
    ("a mistake is told (`clip=nrom`)", ("clip=nrom",), "one is (`clp=norm`)", ("clp=norm",), 2, 1),
    ("`plan`", ("plan",), "its `--cfg job`", ("--cfg", "job"), 0, 0),
)
"""What, our arguments, against what, its arguments, our exit status and its."""


def table(
    folder: Path, rounds: int, threads: Sequence[int], commands: Sequence[Command] = COMMANDS
) -> Rows:
    """One thread, as nothing here computes much."""
    rows = []
    for what, ours, against, theirs, our_status, their_status in commands:
        took = in_turn(
            {
                "recipe": partial(_recipe, folder, ours, our_status),
                "template": partial(_template, folder, theirs, their_status),
            },
            rounds,
        )
        rows.append(row(what, against, 1, took["template"], took["recipe"]))
    return rows


def _recipe(folder: Path, arguments: Sequence[str], status: int, number: int) -> Took:
    took, _ = turns.process(["-m", "recipe", *arguments], folder, 1, status=status)
    return took


def _template(folder: Path, arguments: Sequence[str], status: int, number: int) -> Took:
    took, _ = turns.process([TEMPLATE, *arguments], folder, 1, status=status)
    return took
