"""Freeze parameters by their names."""

from __future__ import annotations

from torch import nn

from recipe import patterns


def by_name(model: nn.Module, *, names: list[str]) -> None:
    """Freeze what `names` (exact, glob, `re:`) takes; everything else is trained.

    Raises SpecError for every pattern that matches nothing, naming the nearest parameters.
    """
    if not names:
        raise ValueError("freeze.names is empty; name what to freeze, or use freeze=none")
    frozen = patterns.select("freeze.names", names, [name for name, _ in model.named_parameters()])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
