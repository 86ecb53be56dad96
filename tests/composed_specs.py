"""Specs composed of overrides, as the command line composes them."""

from __future__ import annotations

from pathlib import Path

import commands
from omegaconf import DictConfig

from recipe.config import compose
from recipe.config.spec import RunSpec

COMPOSITIONS: dict[tuple[str | None, tuple[str, ...]], DictConfig] = {}
"""What tests have composed of recipe's own option files: most of the time of many tests."""


def compose_spec(*overrides: str) -> RunSpec:
    """The spec of a command line, with no defaults of the tests."""
    with compose.composition_context():
        cache = compose.get_composition_cache()
        if shared := Path.cwd() == commands.CHECKOUT:  # elsewhere, there can be other options
            cache.update(COMPOSITIONS)
        spec = compose.Job(overrides, ()).to_spec()
        if shared:
            COMPOSITIONS.update(cache)
        return spec
