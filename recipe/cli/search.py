"""`recipe search`: a sweep whose settings Optuna chooses."""

from __future__ import annotations

from collections.abc import Sequence

from recipe.runner.console import Console
from recipe.sweep.multirun import multirun
from recipe.sweep.search.arguments import ARGUMENT_NAMES
from recipe.sweep.sweeper_arguments import to_sweeper_overrides


def search(arguments: Sequence[str], console: Console) -> int:
    overrides = to_sweeper_overrides("search", "search", ARGUMENT_NAMES, arguments)
    return multirun(overrides, console, ["search", *arguments])
