"""No schedule."""

from __future__ import annotations

from recipe.components.contract import lr_factor


@lr_factor
def constant(progress: float) -> float:
    """Returns the factor of each group's learning rate: 1."""
    return 1.0
