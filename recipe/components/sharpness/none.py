"""The gradient where the weights are."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn


def none(params: list[nn.Parameter], recompute_gradients: Callable[[], None]) -> None:
    """The gradients stay as they are."""
