"""The gradient at the current weights."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

from recipe.components.contract import supports_sharding


@supports_sharding
def none(params: list[nn.Parameter], recompute_gradients: Callable[[], None]) -> None:
    """Leaves the gradients unchanged."""
