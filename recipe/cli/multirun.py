"""`recipe -m`: a sweep over every combination of the given values."""

from __future__ import annotations

from collections.abc import Sequence

from recipe.runner.console import Console
from recipe.sweep import multirun as sweep


def multirun(arguments: Sequence[str], console: Console) -> int:
    overrides = [text for text in arguments if text not in ("-m", "--multirun")]
    return sweep.multirun(overrides, console, arguments)
