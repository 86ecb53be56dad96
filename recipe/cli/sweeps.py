"""The verbs that run sweeps: `recipe -m`, `recipe ablate` and `recipe search`."""

from __future__ import annotations

from collections.abc import Sequence

from recipe.runner.console import Console
from recipe.sweep.ablation.plan import to_sweeper_overrides as to_ablation_overrides
from recipe.sweep.multirun import multirun
from recipe.sweep.search.arguments import ARGUMENT_NAMES
from recipe.sweep.sweeper_arguments import to_sweeper_overrides


def run_grid(arguments: Sequence[str], console: Console) -> int:
    """Every combination of the given values."""
    overrides = [text for text in arguments if text not in ("-m", "--multirun")]
    return multirun(overrides, console, arguments)


def ablate(arguments: Sequence[str], console: Console) -> int:
    """The chosen tricks on and off, and the comparison of these runs."""
    return multirun(to_ablation_overrides(arguments), console, ["ablate", *arguments])


def search(arguments: Sequence[str], console: Console) -> int:
    """Settings that Optuna chooses."""
    overrides = to_sweeper_overrides("search", "search", ARGUMENT_NAMES, arguments)
    return multirun(overrides, console, ["search", *arguments])
