"""Optimizer: torch's own class, called once as `optimizer(parameter groups, **settings)`.

Any torch.optim.Optimizer with the same call does.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from recipe.rules import Planned


def check(planned: Planned) -> Iterator[str]:
    """What torch's classes take without a word."""
    for group in planned.optimizer.param_groups:
        if group.get("momentum", 0.0) >= 1:
            yield (
                f"optimizer.momentum must be below 1, got {group['momentum']} in the group "
                f"{group['name']}: the steps would grow without end"
            )
