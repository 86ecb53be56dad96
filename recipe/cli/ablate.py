"""`recipe ablate`: a sweep that turns the chosen tricks on and off, and its comparison."""

from __future__ import annotations

from collections.abc import Sequence

from recipe.runner.console import Console
from recipe.sweep.ablation.plan import to_sweeper_overrides
from recipe.sweep.multirun import multirun


def ablate(arguments: Sequence[str], console: Console) -> int:
    return multirun(to_sweeper_overrides(arguments), console, ["ablate", *arguments])
