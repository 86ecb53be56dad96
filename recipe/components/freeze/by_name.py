"""Freeze parameters by their names.

Helps: Models of which you know the layers that fit the new data.
Not with: Augmentation, if the outputs of the frozen layers are to be computed only once.
Costs: It saves time: frozen layers need no gradients, and the first ones are computed once.
"""

from __future__ import annotations

from torch import nn

from recipe.nn.parameter_patterns import assign_patterns


def by_name(model: nn.Module, *, names: list[str]) -> None:
    """Freezes the parameters that `names` (exact, glob, `re:`) match; all others are trained.

    Raises SpecError with each pattern that matches no parameter, and the most similar names.
    """
    if not names:
        raise ValueError("freeze.names is empty; name what to freeze, or use freeze=none")
    frozen = assign_patterns("freeze.names", names, [name for name, _ in model.named_parameters()])
    for name, parameter in model.named_parameters():
        parameter.requires_grad_(name not in frozen)
