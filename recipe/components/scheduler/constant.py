"""No schedule."""

from __future__ import annotations

from recipe.components.contract import lr_factor


@lr_factor
def constant(progress: float) -> float:
    """The factor on every group's own learning rate: 1 throughout."""
    return 1.0
