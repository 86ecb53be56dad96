"""Freeze parameters by their names.

Helps: Where you know which layers carry over to the new data.
Not with: Augmentation, if the frozen beginning is to be computed once only.
Costs: Less than nothing: frozen layers have no gradient, and at the beginning of the model are
computed once.
"""

from __future__ import annotations

from torch import nn

from recipe.nn.parameter_patterns import assign_patterns


def by_name(model: nn.Module, *, names: list[str]) -> None:
    """Freeze what `names` (exact, glob, `re:`) takes; everything else is trained.

    Raises SpecError for every pattern that matches nothing, naming the nearest parameters.
    """
    if not names:
        raise ValueError("freeze.names is empty; name what to freeze, or use freeze=none")
    frozen = assign_patterns("freeze.names", names, [name for name, _ in model.named_parameters()])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
