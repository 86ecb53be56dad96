"""No averaging."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import Any

from torch import Tensor, nn

from recipe.components.contract import supports_sharding


class NoAverage:
    def __init__(self, model: nn.Module) -> None:
        self.model = model

    def after_step(self, progress: float) -> None:
        pass

    def after_epoch(self, progress: float, inputs: Callable[[], Iterable[Tensor]]) -> None:
        pass

    def state_dict(self) -> dict[str, Any]:
        return {}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        pass


@supports_sharding
def none(model: nn.Module) -> NoAverage:
    """Returns the trained module as its average."""
    return NoAverage(model)
